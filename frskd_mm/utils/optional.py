"""Packages that only the demo and the pictures need."""


def missing_package(distribution: str, component: str) -> ImportError:
    """Build the error for a component whose Python package is not installed."""
    return ImportError(
        f'{component} need {distribution}, which is not installed. Install it '
        f'with: pip install {distribution}'
    )
