"""Packages that only the demo and the pictures need."""

from importlib.util import find_spec


def missing_package(distribution: str, component: str) -> ImportError:
    """Build the error for a component whose Python package is not installed."""
    return ImportError(
        f'{component} needs {distribution}, which is not installed. Install it '
        f'with: pip install {distribution}'
    )


def require_packages(component: str, **distributions: str) -> None:
    """Raise before any work is done if a package is not installed.

    Args:
        component: What needs them.
        **distributions: Names to install, by name to import.

    Raises:
        ImportError: If one is missing; says how to install all that are.
    """
    missing = [dist for name, dist in distributions.items() if find_spec(name) is None]
    if missing:
        raise missing_package(' '.join(missing), component)
