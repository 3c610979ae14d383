"""What is installed: tested versions, optional hosts, config packages."""

import os.path as osp
import warnings
from glob import escape as glob_escape
from glob import glob
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Dict, Optional

from mmengine.config import utils as config_utils
from mmengine.utils import digit_version

from frskd_mm.version import __version__

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
#: Older ones lack ``torch.compiler``.
OLDEST_TORCH = (2, 1)
HOSTS = ('mmpretrain', 'mmseg', 'mmdet')
#: Projects beside the hosts, with the maintained packages: import name ->
#: distributions to install, the project's first.
EXTRAS = {'mmrotate': ('onedl-mmrotate==1.2.1', 'faster_coco_eval')}
#: ``default_scope`` of configs whose detectors are mmdetection's.
DETECTION_SCOPES = ('mmdet', 'mmrotate')


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


def has_operators() -> bool:
    """Whether mmcv is installed with its compiled operators."""
    mmcv = find_spec('mmcv')
    folders = (mmcv.submodule_search_locations if mmcv else None) or ()
    return any(glob(osp.join(glob_escape(folder), '_ext.*')) for folder in folders)


def install_command(name: str) -> str:
    """Return the pip line that installs the tested version of ``name``."""
    if name in EXTRAS:
        return f'pip install {" ".join(EXTRAS[name])}'
    distribution, tested, _ = package_family()[name]
    flags = ' --no-build-isolation' if name == 'mmcv' else ''
    return f'pip install{flags} {distribution}=={tested}'


def rebuild_command() -> str:
    """Return the pip line that builds mmcv anew, with its operators.

    Without ``--no-cache-dir`` pip would take up again what it built before.
    """
    distribution = package_family()['mmcv'][0]
    return (
        f'{install_command("mmcv")} --no-deps --force-reinstall --no-cache-dir '
        f'--no-binary={distribution}'
    )


def missing_host(host: str, component: str) -> ImportError:
    """Build the error for a component whose host library is not installed."""
    return ImportError(
        f'{component} needs {host}, which is not installed. Install it with: '
        f'{install_command(host)}'
    )


def check_environment() -> None:
    """Warn about untested versions, mixed families and missing libraries.

    The two package families (``onedl-*`` and the classic names) write into the
    same folders, so having both breaks either.

    Raises:
        ImportError: If PyTorch lacks what the package is made of.
    """
    torch = _installed_version('torch')
    if torch is not None and digit_version(torch)[:2] < OLDEST_TORCH:
        oldest = '.'.join(map(str, OLDEST_TORCH))
        raise ImportError(
            f'frskd_mm needs torch {oldest} or newer, found {torch}. Install one that '
            f'your mmcv was built for, or the tested one: {install_command("torch")}'
        )
    both = [
        f'{MAINTAINED[name][0]} and {CLASSIC[name][0]}'
        for name in MAINTAINED
        if name != 'torch'
        and _installed_version(MAINTAINED[name][0])
        and _installed_version(CLASSIC[name][0])
    ]
    if both:
        _warn(
            f'Both package families are installed ({", ".join(both)}). They '
            'share folders and overwrite each other: start from an empty '
            'environment and install one family.'
        )
    for name, (distribution, first, end) in package_family().items():
        found = _installed_version(distribution)
        if found is None:
            continue
        if not digit_version(first) <= digit_version(found) < digit_version(end):
            _warn(
                f'{distribution} {found} is outside the tested versions '
                f'[{first}, {end}). If something breaks: {install_command(name)}'
            )
    if not any(has_host(host) for host in HOSTS):
        _warn(
            'None of the host libraries is installed. Install what you need: '
            + '; '.join(install_command(host) for host in HOSTS)
        )
    if find_spec('mmcv') is None:
        _warn(
            'mmcv is not installed; the host libraries need it. Install it with: '
            f'{install_command("mmcv")}'
        )
    elif not has_operators() and (has_host('mmseg') or has_host('mmdet')):
        _warn(
            'mmcv was installed without its compiled operators, as happens when pip '
            'builds it in isolation; mmseg and mmdet cannot be imported then. Build '
            f'it anew: {rebuild_command()}'
        )


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)  # the line that imports the package


def register_config_packages() -> None:
    """Let ``mmseg::...`` and ``frskd_mm::...`` config paths resolve.

    MMEngine looks the part before ``::`` up in a table of distribution names
    that has the hosts by their classic names only, and this package not at all.
    A host that is missing gets its name of the installed family as well, since
    MMEngine tells the user to install it, or does so itself.
    """
    distributions = {host: package_family()[host][0] for host in HOSTS}
    for name, (requirement, *_) in EXTRAS.items():
        distributions[name] = requirement.partition('==')[0]
    for name, distribution in distributions.items():
        if _installed_version(distribution) is not None or not has_host(name):
            config_utils.MODULE2PACKAGE[name] = distribution
    # Not the distribution's name, for which MMEngine would look beside the
    # distribution's metadata. A module's name makes it look beside the module:
    # the configs are always those of the imported code, whether it is installed,
    # installed for development or merely on the Python path.
    config_utils.MODULE2PACKAGE['frskd_mm'] = 'frskd_mm.version'


def describe_environment() -> Dict[str, Any]:
    """Return what measurements depend on beside the code."""
    import mmengine
    import torch

    on_gpu = torch.cuda.is_available()
    return dict(
        device=torch.cuda.get_device_name() if on_gpu else 'CPU',
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        frskd_mm=__version__,
    )


def require_cuda_ops(scope: Optional[str]) -> None:
    """Refuse to run detectors on a GPU with an mmcv whose operators lack CUDA.

    Few segmentors use the operators, so these are warned, and classifiers none.

    Args:
        scope: The config's ``default_scope``.

    Raises:
        RuntimeError: With what to do about it.
    """
    import torch

    # ROCm's torch calls its devices cuda, too, and mmcv builds for them by itself.
    if torch.version.cuda is None or not torch.cuda.is_available():
        return
    if scope not in ('mmseg', *DETECTION_SCOPES):
        return
    cause = None
    try:
        from mmcv.ops import get_compiling_cuda_version

        if get_compiling_cuda_version() != 'not available':
            return
    except ImportError as error:
        cause = error
    advice = _cuda_ops_advice(torch.__version__, torch.version.cuda)
    if scope in DETECTION_SCOPES:
        raise RuntimeError(advice) from cause
    warnings.warn(
        'Heads that use the operators of mmcv, such as PointRend, CCNet and '
        f'Mask2Former, will fail. {advice}',
        stacklevel=2,
    )


def _cuda_ops_advice(torch_version: str, cuda: str) -> str:
    """Say how mmcv's CUDA operators are had for a version of torch and CUDA."""
    distribution, tested, _ = package_family()['mmcv']
    release = torch_version.partition('+')[0]
    major, minor, patch = release.split('.')[:3]
    toolkit = f'cu{cuda.replace(".", "")}'
    if package_family() is CLASSIC:
        source = (
            '--find-links https://download.openmmlab.com/mmcv/dist/'
            f'{toolkit}/torch{major}.{minor}/index.html'
        )
    else:
        source = (
            '--index-url https://mmwheels.onedl.ai/'
            f'{toolkit}-torch{major}{minor}{patch}/simple/'
        )
    return (
        'A GPU was found, but mmcv was built without its CUDA operators. Do one of:\n'
        f'1. Build them with the CUDA toolkit {cuda} (nvcc), which takes long:\n'
        f'   FORCE_CUDA=1 {rebuild_command()}\n'
        '2. Install a prebuilt wheel, where there is one for your Python, torch '
        f'{release} and CUDA {cuda}:\n'
        f'   pip install --no-deps --force-reinstall --only-binary={distribution} '
        f'{distribution}=={tested} {source}\n'
        '3. Stay on the CPU: set CUDA_VISIBLE_DEVICES=-1.'
    )
