"""Pairs of samples: partners, order, and the batch that the model gets."""

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

from frskd_mm.datasets import Digits, PairDataset


class AddOne:
    """A transform whose effect is seen in the image."""

    def __call__(self, results):
        results['img'] = results['img'] + 1
        return results


def digits(*transforms, num_per_class=3):
    pipeline = [*transforms, dict(type='mmpretrain.PackInputs')]
    return Digits(num_per_class=num_per_class, size=8, pipeline=pipeline)


def loader_of(num_workers=0, persistent_workers=False, **wrapper):
    init_default_scope('mmpretrain')
    dataset = dict(
        type='frskd_mm.Digits',
        num_per_class=3,
        size=16,
        pipeline=[
            dict(type='RandomCrop', crop_size=16, padding=4),
            dict(type='PackInputs'),
        ],
    )
    cfg = dict(
        batch_size=8,
        num_workers=num_workers,
        persistent_workers=persistent_workers,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='frskd_mm.collate_pairs'),
        dataset=dict(type='frskd_mm.PairDataset', dataset=dataset, **wrapper),
    )
    return Runner.build_dataloader(cfg, seed=0)


def test_same_image_partners_are_the_image_itself():
    dataset = PairDataset(digits(), partner='same_image')
    assert len(dataset) == 30
    assert dataset.metainfo['classes'] == tuple('0123456789')
    for index in range(30):
        sample, partner = dataset[index]
        assert torch.equal(sample['inputs'], partner['inputs'])
        assert sample['data_samples'].sample_idx == index
        assert partner['data_samples'].sample_idx == index


def test_same_class_partners_are_any_of_the_class():
    dataset = PairDataset(digits(), partner='same_class')
    np.random.seed(0)
    labels = dataset.dataset.get_gt_labels()
    seen = {dataset[7][1]['data_samples'].sample_idx for _ in range(60)}
    assert seen == set(np.flatnonzero(labels == labels[7]).tolist())
    for index in range(30):
        sample, partner = dataset[index]
        assert sample['data_samples'].sample_idx == index
        assert sample['data_samples'].gt_label == partner['data_samples'].gt_label


def test_extra_transforms_are_the_partner_s_alone():
    dataset = PairDataset(
        digits(AddOne()), partner='same_image', extra_transforms=[AddOne(), AddOne()]
    )
    sample, partner = dataset[4]
    image = torch.from_numpy(digits().get_data_info(4)['img']).permute(2, 0, 1)
    assert torch.equal(sample['inputs'], image + 1)
    assert torch.equal(partner['inputs'], image + 3)


@pytest.mark.parametrize('partner', ['same_image', 'same_class'])
@pytest.mark.parametrize('workers', [(0, False), (1, True)])
def test_a_batch_is_the_samples_and_then_their_partners(partner, workers):
    loader = loader_of(*workers, partner=partner)
    for _ in range(2):
        ids = []
        for batch in loader:
            samples, size = batch['data_samples'], len(batch['data_samples']) // 2
            assert batch['inputs'].shape == (2 * size, 3, 16, 16)
            assert not any('partner' in sample for sample in samples[:size])
            assert all(sample.partner == partner for sample in samples[size:])
            for sample, other in zip(samples[:size], samples[size:]):
                assert sample.gt_label == other.gt_label
                if partner == 'same_image':
                    assert sample.sample_idx == other.sample_idx
            ids += [sample.sample_idx for sample in samples[:size]]
        assert sorted(ids) == list(range(30))
        # Random crops: the two views differ.
        assert not torch.equal(batch['inputs'][:size], batch['inputs'][size:])


def test_the_order_is_the_plain_data_set_s():
    pairs = loader_of(partner='same_class')
    dataset = pairs.dataset.dataset
    plain = Runner.build_dataloader(
        dict(
            batch_size=8,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dataset,
        ),
        seed=0,
    )
    for ours, theirs in zip(pairs, plain):
        first = ours['data_samples'][: len(theirs['data_samples'])]
        assert [s.sample_idx for s in first] == [
            s.sample_idx for s in theirs['data_samples']
        ]


def test_unknown_partners_are_refused():
    with pytest.raises(ValueError, match="one of .*'same_image'.*got 'same'"):
        DATASETS.build(
            dict(type='frskd_mm.PairDataset', dataset=digits(), partner='same')
        )


def in_wrapper(kind, dataset):
    """Config of a wrapper around one data set or two."""
    if kind == 'ConcatDataset':
        other = dict(**dataset, split='test')
        return dict(type=kind, datasets=[dict(**dataset, split='train'), other])
    settings = dict(
        RepeatDataset=dict(times=2),
        ClassBalancedDataset=dict(oversample_thr=0.2),
        KFoldDataset=dict(num_splits=3),
    )
    return dict(type=kind, dataset=dataset, **settings[kind])


@pytest.mark.parametrize(
    'kinds',
    [
        ['RepeatDataset'],
        ['ClassBalancedDataset'],
        ['ConcatDataset'],
        ['KFoldDataset'],
        ['RepeatDataset', 'ConcatDataset'],
    ],
    ids='-'.join,
)
@pytest.mark.parametrize('partner', ['same_image', 'same_class'])
def test_extra_transforms_reach_the_data_sets_within_wrappers(kinds, partner):
    init_default_scope('mmpretrain')
    pipeline = [dict(type='PackInputs')]
    dataset = dict(type='frskd_mm.Digits', num_per_class=3, size=8, pipeline=pipeline)
    for kind in reversed(kinds):
        dataset = in_wrapper(kind, dataset)
    pairs = PairDataset(dataset, partner=partner, extra_transforms=[AddOne()])
    plain = PairDataset(dataset, partner=partner)
    assert len(pairs) == len(plain) >= 20
    for index in range(len(pairs)):
        np.random.seed(index)
        sample, other = pairs[index]
        np.random.seed(index)
        plain_sample, plain_other = plain[index]
        assert torch.equal(sample['inputs'], plain_sample['inputs'])
        assert torch.equal(other['inputs'], plain_other['inputs'] + 1)
        assert sample['data_samples'].gt_label == other['data_samples'].gt_label


def test_a_wrapper_around_pairs_may_ask_for_their_classes():
    init_default_scope('mmpretrain')
    pairs = dict(type='frskd_mm.PairDataset', partner='same_image', dataset=digits())
    balanced = DATASETS.build(
        dict(type='ClassBalancedDataset', dataset=pairs, oversample_thr=0.2)
    )
    assert len(balanced) >= 30
    assert balanced.get_cat_ids(0) == balanced.dataset.dataset.get_cat_ids(0)


def test_data_sets_without_a_pipeline_cannot_take_extra_transforms():
    class Bare:
        def full_init(self):
            pass

    with pytest.raises(TypeError, match='but Bare has none of the usual kind'):
        PairDataset(Bare(), partner='same_image', extra_transforms=[AddOne()])
