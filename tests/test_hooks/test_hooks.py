"""Hooks act on real runners."""

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, TRANSFORMS
from mmengine.runner import Runner


@DATASETS.register_module()
class EightNumbers(BaseDataset):
    """Eight samples without content."""

    def load_data_list(self):
        return [{'index': index} for index in range(8)]


@TRANSFORMS.register_module()
class DrawNumber:
    """Augmentation: one number from numpy's global generator."""

    def __call__(self, results):
        return {'inputs': torch.tensor([np.random.rand()])}


@MODELS.register_module()
class NumberCollector(BaseModel):
    """Keeps what it is trained on, and what the main process draws."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 2, 3)
        self.seen = []

    def forward(self, inputs, mode):
        inputs = torch.stack(inputs)
        self.channels_last = not self.conv.weight.is_contiguous()
        self.seen.append((inputs.flatten().tolist(), torch.rand(1).item()))
        return {'loss': (self.conv.weight.sum() * inputs.sum())}


def run(work_dir, max_epochs, num_workers=0, resume=False, **loader):
    """Train for some epochs; return what was seen in each step."""
    runner = Runner(
        model=dict(type='NumberCollector'),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=4,
            num_workers=num_workers,
            dataset=dict(type='EightNumbers', pipeline=[dict(type='DrawNumber')]),
            sampler=dict(type='DefaultSampler', shuffle=True),
            **loader,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[
            dict(type='frskd_mm.EpochSeedHook'),
            dict(type='frskd_mm.ChannelsLastHook'),
        ],
        default_hooks=dict(logger=None),
        randomness=dict(seed=3),
        resume=resume,
        experiment_name=f'hooks-{work_dir.name}-{max_epochs}-{num_workers}',
        log_level='ERROR',
    )
    runner.train()
    return runner.model


@pytest.mark.parametrize('num_workers', [0, 2])
def test_resumed_run_draws_what_the_uninterrupted_one_draws(tmp_path, num_workers):
    whole = run(tmp_path / 'whole', 3, num_workers)
    run(tmp_path / 'parts', 1, num_workers)
    torch.rand(5), np.random.rand(5)  # whatever else ran in between
    rest = run(tmp_path / 'parts', 3, num_workers, resume=True)
    assert rest.seen == whole.seen[2:]
    assert torch.equal(rest.conv.weight, whole.conv.weight)


def test_epochs_draw_different_numbers(tmp_path):
    seen = run(tmp_path / 'workers', 2, num_workers=1).seen
    assert not set(seen[0][0] + seen[1][0]) & set(seen[2][0] + seen[3][0])


def test_persistent_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match='persistent_workers=False'):
        run(tmp_path / 'persistent', 1, num_workers=1, persistent_workers=True)


def test_channels_last_on_the_cpu_during_training(tmp_path):
    model = run(tmp_path / 'layout', 1)
    assert model.channels_last
    assert model.conv.weight.is_contiguous()
