"""MMEngine's FlexibleRunner and its strategies train a distilled model."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from trainings import (
    CONFIG,
    REPO,
    STEPS,
    assert_equal_curves,
    assert_equal_weights,
    curve_of,
    train_on_one,
    train_on_two,
    weights_of,
)

from frskd_mm.engine import configure_run, export_student, load_config
from frskd_mm.engine.fsdp_strategy import FSDPStrategy, shards_over_cpus
from frskd_mm.engine.runs import build_runner

FLEXIBLE = {'runner_type': 'FlexibleRunner'}
FSDP_CONFIG = REPO / 'configs/scale/frskd_resnet18_cifar100_fsdp.py'
DEEPSPEED_CONFIG = REPO / 'configs/scale/frskd_resnet18_cifar100_deepspeed.py'
#: The config's own lines, which CPUs take, too.
FSDP = {
    **FLEXIBLE,
    **{f'strategy.{k}': v for k, v in Config.fromfile(FSDP_CONFIG).strategy.items()},
}
EPOCHS = 2


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    """A run of one process with the joined batch."""
    work_dir = tmp_path_factory.mktemp('flexible')
    train_on_one(work_dir, EPOCHS, given=FLEXIBLE)
    return work_dir


def check(work_dir, one):
    """Require the run of one process, and a checkpoint that yields a plain student."""
    expected = curve_of(one)
    assert len(expected) == EPOCHS * STEPS
    assert_equal_curves(curve_of(work_dir), expected)
    cfg = Config.fromfile(one / Path(CONFIG).name)
    students = []
    for folder in (work_dir, one):
        checkpoint, out = folder / f'epoch_{EPOCHS}.pth', work_dir / folder.name
        # Loads strictly into the plain model, or raises.
        path, _ = export_student(cfg, str(checkpoint), f'{out}.pth')
        students.append(torch.load(path, weights_only=False)['state_dict'])
    assert_equal_weights(*students)


@pytest.mark.skipif(not shards_over_cpus(), reason="this PyTorch's FSDP needs GPUs")
def test_fsdp_resumes_and_its_checkpoint_is_a_plain_students(tmp_path, one):
    train_on_two(tmp_path, 1, given=FSDP)
    train_on_two(tmp_path, EPOCHS, '--resume', given=FSDP)
    check(tmp_path, one)
    names = weights_of(tmp_path, EPOCHS).keys()
    assert names == weights_of(one, EPOCHS).keys()


@pytest.mark.slow
def test_ddp_strategy(tmp_path, one):
    train_on_two(tmp_path, EPOCHS, given={**FLEXIBLE, 'strategy.type': 'DDPStrategy'})
    check(tmp_path, one)


def test_fsdp_on_cpus_is_refused_where_it_ends_in_the_first_step(monkeypatch):
    monkeypatch.setattr('frskd_mm.engine.fsdp_strategy.get_device', lambda: 'cpu')
    monkeypatch.setattr('torch.cpu.Stream', type('Stream', (), {}))  # that of 2.1
    with pytest.raises(ValueError, match=r'FSDP of PyTorch .* needs GPUs'):
        FSDPStrategy()


def test_fsdp_of_mmengine_is_refused(tmp_path):
    cfg = load_config(str(FSDP_CONFIG), {'strategy.type': 'FSDPStrategy'})
    with pytest.raises(ValueError, match=r'frskd_mm\.FSDPStrategy'):
        build_runner(configure_run(cfg, work_dir=str(tmp_path)))


@pytest.mark.skipif(find_spec('deepspeed') is not None, reason='DeepSpeed is there')
def test_missing_deepspeed_is_named(tmp_path):
    cfg = configure_run(load_config(str(DEEPSPEED_CONFIG)), work_dir=str(tmp_path))
    with pytest.raises(AssertionError, match='DeepSpeed is not installed'):
        build_runner(cfg)


def test_amp_of_deepspeed_is_its_own(tmp_path):
    cfg = load_config(str(DEEPSPEED_CONFIG))
    with pytest.raises(ValueError, match='strategy.bf16'):
        configure_run(cfg, work_dir=str(tmp_path), amp=True)
