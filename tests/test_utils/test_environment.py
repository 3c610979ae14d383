"""What is installed, and what is said when it does not fit."""

import subprocess
import sys
import warnings
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from types import SimpleNamespace

import mmcv.ops
import pytest
import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from frskd_mm.engine import evaluate, load_config, train
from frskd_mm.utils import environment
from frskd_mm.utils.environment import (
    CLASSIC,
    EXTRAS,
    HOSTS,
    MAINTAINED,
    check_environment,
    install_command,
    missing_host,
    package_family,
    register_config_packages,
    require_cuda_ops,
)

FAMILIES = {'maintained': MAINTAINED, 'classic': CLASSIC}


def first_versions(family):
    return {distribution: first for distribution, first, _ in family.values()}


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Pretend that these versions are installed, each with its import name."""
    tmp_path.joinpath('_ext.so').touch()  # mmcv's operators

    def pretend(versions):
        names = {
            name
            for family in FAMILIES.values()
            for name, (distribution, *_) in family.items()
            if distribution in versions
        }

        def version(distribution):
            if distribution not in versions:
                raise PackageNotFoundError(distribution)
            return versions[distribution]

        def find(name):
            location = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
            return location if name in names else None

        monkeypatch.setattr(environment, 'version', version)
        monkeypatch.setattr(environment, 'find_spec', find)

    return pretend


@pytest.mark.parametrize('family', FAMILIES.values(), ids=FAMILIES)
def test_the_tested_versions_give_no_warning(installed, family):
    installed(first_versions(family))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check_environment()


@pytest.mark.parametrize('family', FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize('name', MAINTAINED)
def test_versions_outside_the_window_are_named_with_the_pip_line(
    installed, family, name
):
    distribution, first, end = family[name]
    for version in (end, '2.1.0' if name == 'torch' else '0.1'):
        installed({**first_versions(family), distribution: version})
        message = f'^{distribution} {version} is outside .*{distribution}=={first}$'
        with pytest.warns(UserWarning, match=message) as caught:
            check_environment()
        assert len(caught) == 1


def test_a_torch_that_lacks_what_is_needed_ends_the_import(installed):
    installed({**first_versions(CLASSIC), 'torch': '2.0.1+cu118'})
    with pytest.raises(ImportError, match=r'torch 2\.1 or newer, found 2\.0\.1'):
        check_environment()


def test_local_and_patch_versions_are_inside_the_window(installed):
    installed({**first_versions(MAINTAINED), 'torch': '2.10.1+cu128'})
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check_environment()


def test_two_families_in_one_environment_are_refused_by_name(installed):
    installed({**first_versions(MAINTAINED), 'mmdet': '3.3.0', 'mmcv': '2.1.0'})
    with pytest.warns(UserWarning, match='onedl-mmcv and mmcv') as caught:
        check_environment()
    assert 'onedl-mmdetection and mmdet' in str(caught[0].message)
    assert 'onedl-mmengine' not in str(caught[0].message)


@pytest.mark.parametrize('family', FAMILIES.values(), ids=FAMILIES)
def test_without_any_host_all_pip_lines_are_given(installed, family):
    versions = first_versions(family)
    for host in HOSTS:
        del versions[family[host][0]]
    installed(versions)
    with pytest.warns(UserWarning, match='None of the host') as caught:
        check_environment()
    for host in HOSTS:
        distribution, first, _ = family[host]
        assert f'pip install {distribution}=={first}' in str(caught[0].message)


def test_one_host_is_enough(installed):
    versions = first_versions(MAINTAINED)
    del versions['onedl-mmpretrain'], versions['onedl-mmdetection']
    installed(versions)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check_environment()


@pytest.mark.parametrize(
    ('family', 'line'),
    [
        (MAINTAINED, 'pip install onedl-mmdetection==3.5.1'),
        (CLASSIC, 'pip install mmdet==3.3.0'),
    ],
    ids=FAMILIES,
)
def test_a_missing_host_comes_with_the_pip_line_of_its_family(installed, family, line):
    installed({family['mmengine'][0]: '0.10'})
    message = str(missing_host('mmdet', 'SomeDetector'))
    assert message.startswith('SomeDetector needs mmdet')
    assert message.endswith(line)


def test_a_missing_mmcv_is_named(installed):
    versions = first_versions(MAINTAINED)
    del versions['onedl-mmcv']
    installed(versions)
    line = 'pip install --no-build-isolation onedl-mmcv==2.3.6'
    with pytest.warns(UserWarning, match=f'mmcv is not installed.*{line}'):
        check_environment()


def test_an_mmcv_without_operators_is_named(installed, tmp_path):
    installed(first_versions(MAINTAINED))
    tmp_path.joinpath('_ext.so').unlink()
    with pytest.warns(UserWarning, match='without its compiled .*--no-cache-dir'):
        check_environment()


def test_classification_alone_needs_no_operators(installed, tmp_path):
    versions = first_versions(MAINTAINED)
    del versions['onedl-mmsegmentation'], versions['onedl-mmdetection']
    installed(versions)
    tmp_path.joinpath('_ext.so').unlink()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check_environment()


def test_this_environment_has_mmcv_with_operators():
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='mmcv')
        check_environment()


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that there is a GPU, and an mmcv compiled for this CUDA release."""

    def pretend(compiled_for, available=True):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: available)
        monkeypatch.setattr(torch.version, 'cuda', '12.8')
        monkeypatch.setattr(torch, '__version__', '2.10.0+cu128')
        monkeypatch.setattr(
            mmcv.ops, 'get_compiling_cuda_version', lambda: compiled_for
        )

    return pretend


@pytest.mark.parametrize(
    ('family', 'lines'),
    [
        (
            MAINTAINED,
            [
                'FORCE_CUDA=1 pip install --no-build-isolation onedl-mmcv==2.3.6 ',
                '--no-cache-dir --no-binary=onedl-mmcv',
                'https://mmwheels.onedl.ai/cu128-torch2100/simple/',
            ],
        ),
        (
            CLASSIC,
            [
                'FORCE_CUDA=1 pip install --no-build-isolation mmcv==2.1.0 ',
                '--no-cache-dir --no-binary=mmcv',
                '/mmcv/dist/cu128/torch2.10/index.html',
            ],
        ),
    ],
    ids=FAMILIES,
)
def test_a_gpu_without_cuda_operators_ends_with_advice(installed, gpu, family, lines):
    installed(first_versions(family))
    gpu('not available')
    with pytest.raises(RuntimeError) as error:
        require_cuda_ops('mmdet')
    for line in [*lines, 'CUDA_VISIBLE_DEVICES=-1']:
        assert line in str(error.value)


def test_a_gpu_without_any_operators_ends_with_advice(gpu, monkeypatch):
    gpu('12.8')
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    with pytest.raises(RuntimeError, match='FORCE_CUDA=1'):
        require_cuda_ops('mmdet')


def test_segmentors_are_warned_and_classifiers_need_no_operators(gpu):
    gpu('not available')
    with pytest.warns(UserWarning, match='Point(?s:.*)FORCE_CUDA=1'):
        require_cuda_ops('mmseg')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        require_cuda_ops('mmpretrain')


@pytest.mark.parametrize('command', [train, partial(evaluate, checkpoint='a.pth')])
def test_training_and_testing_ask_for_what_the_config_needs(gpu, command):
    gpu('not available')
    with pytest.raises(RuntimeError, match='FORCE_CUDA=1'):
        command(Config(dict(default_scope='mmdet')))


def test_compiling_is_refused_where_pytorch_cannot_trace(monkeypatch):
    monkeypatch.delattr(torch.compiler, 'is_compiling', raising=False)
    with pytest.raises(ValueError, match='cannot trace .*Set compile = False'):
        train(Config(dict(compile=True)))


@pytest.mark.parametrize('scope', HOSTS)
def test_cuda_operators_or_no_gpu_are_fine(gpu, scope):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        gpu('12.8')
        require_cuda_ops(scope)
        gpu('not available', available=False)
        require_cuda_ops(scope)


def test_a_rocm_gpu_is_left_alone(gpu, monkeypatch):
    gpu('not available')
    monkeypatch.setattr(torch.version, 'cuda', None)
    require_cuda_ops('mmdet')


PATHS = [
    'mmpretrain::_base_/models/resnet18_cifar.py',
    'mmseg::_base_/models/fcn_unet_s5-d16.py',
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'frskd_mm::_base_/frskd_cls.py',
]


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.partition('::')[0])
def test_config_paths_of_every_package_resolve(path, tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = '{path}'\n")
    inherited = Config.fromfile(child)
    assert inherited.keys() & {'model', 'distiller'}
    assert load_config(path).to_dict().keys() == inherited.to_dict().keys()


@pytest.mark.parametrize(
    'path',
    [
        '_base_/../frskd_resnet18_cifar100.py',
        'digits/frskd_fcn_r18-c16_digit-scenes.py',
        'digits/frskd_retinanet_r18-c16_digit-scenes.py',
    ],
)
def test_a_config_that_inherits_ours_is_ours(path, repo, tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = 'frskd_mm::{path}'\n")
    assert (
        load_config(str(child)).to_dict()
        == load_config(str(repo / 'configs' / path)).to_dict()
    )


def test_our_config_paths_lead_to_the_imported_code(repo, monkeypatch, tmp_path):
    # another copy of the package, installed but not the one that is imported
    tmp_path.joinpath('frskd_mm').mkdir()
    metadata = tmp_path / 'frskd_mm-0.0.1.dist-info'
    metadata.mkdir()
    metadata.joinpath('METADATA').write_text('Name: frskd_mm\nVersion: 0.0.1\n')
    metadata.joinpath('top_level.txt').write_text('frskd_mm\n')
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
    path = load_config('frskd_mm::_base_/frskd_cls.py').filename
    assert path.startswith(find_spec('frskd_mm').submodule_search_locations[0])
    assert (repo / 'configs/_base_/frskd_cls.py').read_text() == open(path).read()


@pytest.mark.parametrize('family', FAMILIES.values(), ids=FAMILIES)
def test_mmengine_knows_missing_hosts_by_the_name_of_their_family(
    installed, family, monkeypatch
):
    for name in ('frskd_mm', *HOSTS, *EXTRAS):
        monkeypatch.setitem(MODULE2PACKAGE, name, 'unset')
    installed({family['mmengine'][0]: '0.10'})
    register_config_packages()
    assert MODULE2PACKAGE['mmseg'] == family['mmseg'][0]
    assert MODULE2PACKAGE['mmdet'] == family['mmdet'][0]
    assert MODULE2PACKAGE['mmpretrain'] == family['mmpretrain'][0]
    assert MODULE2PACKAGE['mmrotate'] == 'onedl-mmrotate'


def test_a_config_of_a_missing_project_says_what_to_install(monkeypatch, repo):
    """MMEngine would install a package of another family by itself."""
    monkeypatch.setattr('frskd_mm.engine.config.has_host', lambda name: False)
    line = 'pip install onedl-mmrotate==1.2.1 faster_coco_eval'
    with pytest.raises(ImportError, match=f'needs mmrotate.*{line}'):
        load_config('mmrotate::rotated_fcos/any.py')
    setup = (repo / 'setup.py').read_text()
    for requirements in EXTRAS.values():
        assert all(f"'{requirement}" in setup for requirement in requirements)


def test_importing_the_package_imports_no_host(repo):
    code = 'import sys, frskd_mm; print(*{name.split(".")[0] for name in sys.modules})'
    result = subprocess.run(
        [sys.executable, '-c', code],
        cwd=repo,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(result.stdout.split())
    assert 'frskd_mm' in imported
    assert not imported & {*HOSTS, 'mmcv', 'torchvision', 'sklearn', 'matplotlib'}


@pytest.mark.parametrize('name', FAMILIES)
def test_requirements_pin_the_first_tested_versions(repo, name):
    lines = (repo / f'requirements/{name}.txt').read_text().splitlines()
    for distribution, first, _ in FAMILIES[name].values():
        assert f'{distribution}=={first}' in lines
    if package_family() is FAMILIES[name]:
        assert install_command('mmcv').split()[-1] in lines
