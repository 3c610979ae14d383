"""tools/train.py as a user runs it: interrupted at any moment, then resumed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from frskd_mm.engine import configure_run, load_config, resolve_work_dir
from frskd_mm.engine import train as start_training
from frskd_mm.engine.config import check_checkpoint_file
from frskd_mm.utils.model import build_model

REPO = Path(__file__).resolve().parents[2]
CONFIG = 'configs/digits/frskd_wrn10-1_digits.py'
OPTIONS = [
    '--cfg-options',
    'train_cfg.max_epochs=4',
    'train_cfg.val_interval=10',
    'train_dataloader.dataset.num_per_class=10',
    'train_dataloader.batch_size=10',
    'train_dataloader.num_workers=1',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=2',
    'default_hooks.logger.interval=1',
    'model.student.backbone.drop_rate=0.3',
]


def train(work_dir, *arguments, wait=True):
    """Start tools/train.py; its output goes to a file."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO)}
    command = [sys.executable, 'tools/train.py', CONFIG, '--work-dir', str(work_dir)]
    work_dir.mkdir(exist_ok=True)
    with open(work_dir / 'out.txt', 'ab') as out:
        process = subprocess.Popen(
            [*command, *arguments, *OPTIONS],
            cwd=REPO,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    if wait:
        assert process.wait(timeout=300) == 0, (work_dir / 'out.txt').read_text()[
            -3000:
        ]
    return process


def final_state(work_dir):
    """Weights and optimiser of the last epoch."""
    checkpoint = torch.load(work_dir / 'epoch_4.pth', weights_only=False)
    return checkpoint['state_dict'], checkpoint['optimizer']['state']


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('whole')
    train(work_dir)
    return final_state(work_dir)


@pytest.mark.parametrize(
    'kind', [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_interrupted_run_ends_with_the_same_weights(tmp_path, uninterrupted, kind):
    process = train(tmp_path / 'run', wait=False)
    output = tmp_path / 'run/out.txt'
    deadline = time.monotonic() + 300
    while not re.search(r'\[3\]\[ *5/10\]', output.read_text()):
        assert process.poll() is None, output.read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(kind)
    assert process.wait(timeout=60) == (143 if kind == signal.SIGTERM else -9)
    assert not (tmp_path / 'run/epoch_4.pth').exists()
    if kind == signal.SIGTERM:
        assert '--resume' in output.read_text()

    before = output.read_text()
    train(tmp_path / 'run', '--resume')
    # It went on from the second epoch instead of training anew.
    first_line = re.search(r'\[(\d+)\]\[ *1/10\]', output.read_text()[len(before) :])
    assert first_line.group(1) == '3'
    for resumed, whole in zip(final_state(tmp_path / 'run'), uninterrupted):
        torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(resume='epoch_9.pth'), FileNotFoundError, 'no checkpoint epoch_9.pth'),
        (dict(resume=__file__), ValueError, 'not a complete PyTorch checkpoint'),
        (dict(resume=str(REPO)), FileNotFoundError, 'is a folder. Name a checkpoint'),
        (dict(amp=True), ValueError, 'Leave --amp out'),
        (dict(auto_scale_lr=True), ValueError, 'base_batch_size'),
    ],
)
def test_wrong_options_get_a_message(tmp_path, options, error, message):
    if 'amp' in options and torch.cuda.is_available():
        pytest.skip('mixed precision is available here')
    cfg = load_config(str(REPO / CONFIG))
    with pytest.raises(error, match=message):
        configure_run(cfg, work_dir=str(tmp_path), **options)


def test_damaged_checkpoints_are_told_from_whole_ones(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=dict(weight=torch.randn(1000))), path)
    check_checkpoint_file(str(path))
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    inverted = whole[:100] + bytes(byte ^ 255 for byte in whole[100:-400])
    inverted += whole[-400:]
    for damaged in (flipped, inverted, whole[:-100], b''):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match='cut off or damaged'):
            check_checkpoint_file(str(path))


def test_a_run_of_another_model_is_not_resumed(tmp_path):
    plain = configure_run(
        load_config(str(REPO / 'configs/digits/wrn10-1_digits.py')), str(tmp_path)
    )
    model = build_model(plain)
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    cfg = load_config(str(REPO / CONFIG), {'log_level': 'ERROR'})
    cfg = configure_run(cfg, work_dir=str(tmp_path), resume=str(path))
    with pytest.raises(ValueError, match='missing .distiller.*begin a new one'):
        start_training(cfg)


def test_settings_of_a_method_without_a_method_are_refused(tmp_path):
    path = str(REPO / 'configs/digits/wrn10-1_digits.py')
    cfg = load_config(path, {'model.distiller.neck.width': 1})
    with pytest.raises(ValueError, match='--method frskd'):
        configure_run(cfg, work_dir=str(tmp_path))


def test_a_package_path_without_a_folder_is_mended():
    with pytest.raises(ValueError, match=r'frskd_mm::_base_/\.\./resnet18_cifar100.py'):
        load_config('frskd_mm::resnet18_cifar100.py')


@pytest.mark.parametrize(
    ('path', 'loader'),
    [
        (
            'configs/mmdet/frskd_retinanet_r18-narrow_1xb8-24e_bccd.py',
            'train_dataloader',
        ),
        ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'train_dataloader'),
        (
            'configs/mmseg/frskd_fcn_r18-c16_1xb8-30e_camvid-240x180.py',
            'val_dataloader',
        ),
    ],
)
def test_missing_data_are_named_before_anything_is_built(tmp_path, path, loader):
    path = path if '::' in path else str(REPO / path)
    cfg = load_config(path)
    for key in ('train_dataloader', 'val_dataloader'):
        dataset = cfg[key].dataset
        while 'dataset' in dataset:
            dataset = dataset.dataset
        dataset.data_root = str(tmp_path if key != loader else tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match=f'nowhere for the {loader}.dataset'):
        start_training(configure_run(cfg, work_dir=str(tmp_path)))


@pytest.mark.parametrize(
    ('path', 'options', 'message'),
    [
        ('mmdet::retinanet/retinanet_r50_fpn_1x_coc.py', {}, 'Similar: .*_1x_coco'),
        ('frskd_mm::digits/wrn10-1_digit.py', {}, 'Similar: .*wrn10-1_digits'),
        (CONFIG, {'train_dataloder.batch_size': 2}, 'Is it train_dataloader?'),
        (CONFIG, {'lr': 0.5}, r'no lr, .* Set optim_wrapper.optimizer.lr instead'),
        (CONFIG, {'gradient_clip': 1}, 'nothing reads it'),
    ],
)
def test_misspelt_paths_and_options_name_similar_ones(path, options, message):
    path = path if '::' in path else str(REPO / path)
    with pytest.raises((FileNotFoundError, ValueError), match=message) as caught:
        load_config(path, options)
    assert len(str(caught.value)) < 1000


def test_options_that_a_config_lacks_are_taken():
    cfg = load_config(str(REPO / CONFIG), {'sync_bn': 'torch', 'compile': True})
    assert cfg.compile


def test_a_variable_of_the_file_is_changed_with_a_warning(monkeypatch):
    said = []
    monkeypatch.setattr(
        'frskd_mm.engine.config.print_log', lambda text, **_: said.append(text)
    )
    cfg = load_config('mmdet::yolox/yolox_s_8xb8-300e_coco.py', {'max_epochs': 3})
    assert cfg.train_cfg.max_epochs == 300
    assert ['Set train_cfg.max_epochs instead' in text for text in said] == [True]


@pytest.mark.parametrize(
    ('given', 'own', 'method', 'expected'),
    [
        (None, None, None, 'work_dirs/frskd_a'),
        (None, 'runs/a/', None, 'runs/a/'),
        (None, 'runs/a/', 'frskd', 'runs/frskd_a'),
        ('mine', 'runs/a', 'frskd', 'mine'),
    ],
)
def test_a_method_does_not_train_in_the_folder_of_the_plain_student(
    given, own, method, expected
):
    cfg = Config(dict(work_dir=own) if own else {})
    assert resolve_work_dir(cfg, 'x/frskd_a.py', given, method) == expected


def test_misspelt_config_names_similar_ones():
    with pytest.raises(FileNotFoundError, match='Similar: .*frskd_resnet18_cifar100'):
        load_config(str(REPO / 'configs/frskd_resnet18_cifar10.py'))


@pytest.mark.parametrize(
    ('key', 'value', 'error', 'message'),
    [
        (
            'student.backbone.out_indices',
            (4,),
            ValueError,
            'out_indices',
        ),
        ('distiller.neck.in_channels', [8, 8], ValueError, 'in_channels'),
        ('distiller.soft_label.type', 'frskd_mm.KL', KeyError, 'frskd_mm.KL is not in'),
        ('distiller.detach', True, TypeError, 'detach'),
        ('backbone.depth', 18, TypeError, 'not backbone. Is .* _delete_=True'),
        ('student.head.num_classes', 7, ValueError, 'out of range for .*=7'),
    ],
)
def test_wrong_config_gets_a_message(tmp_path, key, value, error, message):
    cfg = load_config(str(REPO / CONFIG), {f'model.{key}': value, 'log_level': 'ERROR'})
    cfg = configure_run(cfg, work_dir=str(tmp_path))
    with pytest.raises(error, match=message):
        Runner.from_cfg(cfg).train()
