"""What is installed: tested versions, optional hosts, config packages."""

import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Optional

from mmengine.config import utils as config_utils
from mmengine.utils import digit_version

# Import name -> (distribution, first tested version, first untested version),
# for the two families of packages that provide the same import names.
MAINTAINED = {
    'torch': ('torch', '2.10.0', '2.11'),
    'mmengine': ('onedl-mmengine', '0.10.12', '0.11'),
    'mmcv': ('onedl-mmcv', '2.3.6', '2.4'),
    'mmpretrain': ('onedl-mmpretrain', '1.3.6', '1.4'),
    'mmseg': ('onedl-mmsegmentation', '1.4.2', '1.5'),
    'mmdet': ('onedl-mmdetection', '3.5.1', '3.6'),
}
CLASSIC = {
    'torch': ('torch', '2.1.2', '2.2'),
    'mmengine': ('mmengine', '0.10.7', '0.11'),
    'mmcv': ('mmcv', '2.1.0', '2.2'),
    'mmpretrain': ('mmpretrain', '1.2.0', '1.3'),
    'mmseg': ('mmsegmentation', '1.2.2', '1.3'),
    'mmdet': ('mmdet', '3.3.0', '3.4'),
}
HOSTS = ('mmpretrain', 'mmseg', 'mmdet')


def _installed_version(distribution: str) -> Optional[str]:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def package_family() -> dict:
    """Return the table of the family whose MMEngine is installed."""
    if _installed_version(CLASSIC['mmengine'][0]) is not None:
        return CLASSIC
    return MAINTAINED


def has_host(host: str) -> bool:
    """Whether the host library ``host`` (its import name) is installed."""
    return find_spec(host) is not None


def install_command(name: str) -> str:
    """Return the pip line that installs the tested version of ``name``."""
    distribution, tested, _ = package_family()[name]
    flags = ' --no-build-isolation' if name == 'mmcv' else ''
    return f'pip install{flags} {distribution}=={tested}'


def missing_host(host: str, component: str) -> ImportError:
    """Build the error for a component whose host library is not installed."""
    return ImportError(
        f'{component} needs {host}, which is not installed. Install it with: '
        f'{install_command(host)}'
    )


def check_environment() -> None:
    """Warn about versions outside the tested windows and mixed families.

    The two package families (``onedl-*`` and the classic names) write into the
    same folders, so having both breaks either.
    """
    both = [
        f'{MAINTAINED[name][0]} and {CLASSIC[name][0]}'
        for name in MAINTAINED
        if name != 'torch'
        and _installed_version(MAINTAINED[name][0])
        and _installed_version(CLASSIC[name][0])
    ]
    if both:
        warnings.warn(
            f'Both package families are installed ({", ".join(both)}). They '
            'share folders and overwrite each other: start from an empty '
            'environment and install one family.',
            stacklevel=3,
        )
    for name, (distribution, first, end) in package_family().items():
        found = _installed_version(distribution)
        if found is None:
            continue
        if not digit_version(first) <= digit_version(found) < digit_version(end):
            warnings.warn(
                f'{distribution} {found} is outside the tested versions '
                f'[{first}, {end}). If something breaks: {install_command(name)}',
                stacklevel=3,
            )
    if not any(has_host(host) for host in HOSTS):
        warnings.warn(
            'None of the host libraries is installed. Install what you need: '
            + '; '.join(install_command(host) for host in HOSTS),
            stacklevel=3,
        )


def register_config_packages() -> None:
    """Let ``mmseg::...`` and ``frskd_mm::...`` config paths resolve.

    MMEngine looks the part before ``::`` up in a table of distribution names.
    It does not know this package, and knows mmseg only by its classic name.
    """
    config_utils.MODULE2PACKAGE['frskd_mm'] = 'frskd_mm'
    distribution = package_family()['mmseg'][0]
    if _installed_version(distribution) is not None:
        config_utils.MODULE2PACKAGE['mmseg'] = distribution


def require_cuda_ops() -> None:
    """Refuse to start on a GPU with an mmcv whose operators lack CUDA.

    Raises:
        RuntimeError: With what to do about it.
    """
    import torch

    if not torch.cuda.is_available():
        return
    from mmcv.ops import get_compiling_cuda_version

    if get_compiling_cuda_version() == 'not available':
        raise RuntimeError(
            'A GPU was found, but mmcv was built without its CUDA operators. '
            'Rebuild it with the CUDA toolkit: FORCE_CUDA=1 MMCV_WITH_OPS=1 '
            f'{install_command("mmcv")} --force-reinstall --no-deps'
        )
