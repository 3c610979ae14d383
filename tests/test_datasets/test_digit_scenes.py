"""Digit scenes: exact annotations, and the hosts' real pipelines and metrics."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from frskd_mm.datasets.bundled_digits import read_digits
from frskd_mm.datasets.digit_scenes import (
    IGNORE_INDEX,
    MIN_VISIBLE,
    DigitScenes,
    box_of,
)
from frskd_mm.registry import DATASETS

CONFIGS = sorted(
    [f'{frskd}{name}_digit-scenes' for frskd in ('', 'frskd_')]
    for name in ('fcn_r18-c16', 'retinanet_r18-c16')
)


@pytest.fixture(scope='module')
def scenes():
    painter = DigitScenes('train', num_digits=(2, 4))
    return [painter.draw(index) for index in range(40)]


def test_boxes_are_the_extents_of_the_masks(scenes):
    for scene in scenes:
        for mask, (x1, y1, x2, y2) in zip(scene.masks, scene.boxes.astype(int)):
            assert mask[y1:y2, x1:x2].sum() == mask.sum() > 0
            for line in (mask[y1], mask[y2 - 1], mask[:, x1], mask[:, x2 - 1]):
                assert line.any()


def test_label_map_and_masks_agree(scenes):
    for scene in scenes:
        owner = np.zeros_like(scene.seg_map)
        for label, mask in zip(scene.labels, scene.masks):
            assert not owner[mask].any(), 'masks of instances overlap'
            owner[mask] = label + 1
        certain = scene.seg_map != IGNORE_INDEX
        assert not certain.all()
        np.testing.assert_array_equal(scene.seg_map[certain], owner[certain])


def test_edges_that_are_not_ignored_stay_what_is_behind(scenes):
    painter = DigitScenes('train', num_digits=(2, 4), ignore_edges=False)
    for index, scene in enumerate(scenes):
        whole = painter.draw(index)
        np.testing.assert_array_equal(whole.img, scene.img)
        owner = np.zeros_like(whole.seg_map)
        for label, mask in zip(scene.labels, scene.masks):
            owner[mask] = label + 1
        np.testing.assert_array_equal(whole.seg_map, owner)


def test_scenes_overlap_but_digits_stay_visible():
    crowded = DigitScenes('train', size=64, num_digits=(4, 4), digit_size=(30, 40))
    alone = DigitScenes('train', size=64, num_digits=(1, 1), digit_size=(30, 40))
    occluded = 0
    for index in range(10):
        # The first digit of a scene is drawn alike, however many follow.
        whole, behind = alone.draw(index).masks[0], crowded.draw(index).masks[0]
        assert not (behind & ~whole).any()
        assert behind.sum() >= MIN_VISIBLE * whole.sum()
        occluded += behind.sum() < whole.sum()
    assert occluded > 0


def test_the_drawn_ink_is_the_digit_of_the_label():
    """Without clutter and noise, picture and mask show the source digit."""
    painter = DigitScenes('test', num_digits=(1, 1), clutter=0, noise=0.0)
    digits, labels = read_digits('test')
    for index in range(10):
        scene = painter.draw(index)
        x1, y1, x2, y2 = scene.boxes[0].astype(int)
        inside = scene.masks[0][y1:y2, x1:x2]
        grey = scene.img.mean(axis=2)
        assert grey[scene.masks[0]].mean() > grey[scene.seg_map == 0].mean() + 20
        # Among the digits of the split, the best match has the scene's label.
        scores = [_overlap(digit, inside) for digit in digits]
        assert labels[int(np.argmax(scores))] == scene.labels[0]


def _overlap(digit, inside):
    import cv2

    mask = cv2.resize(digit, (64, 64), interpolation=cv2.INTER_CUBIC) >= 80
    x1, y1, x2, y2 = box_of(mask)
    size = inside.shape[::-1]
    own = cv2.resize(mask[y1:y2, x1:x2].astype(np.uint8), size) > 0
    return (own & inside).sum() / (own | inside).sum()


def test_scenes_depend_on_seed_index_and_split_alone():
    first, second = DigitScenes('train'), DigitScenes('train')
    first.draw(3)
    np.random.seed(1)
    for a, b in zip(first.draw(7), second.draw(7)):
        np.testing.assert_array_equal(a, b)
    for other in (
        first.draw(8),
        DigitScenes('train', seed=1).draw(7),
        DigitScenes('test').draw(7),
    ):
        assert (other.img != first.draw(7).img).any()


def test_splits_use_different_digits():
    used = {
        split: {digit.tobytes() for digit in DigitScenes(split).digits}
        for split in ('train', 'test', 'subtrain', 'val')
    }
    assert len(used['train']) == 1000
    assert not used['train'] & used['test']
    assert used['subtrain'] | used['val'] == used['train']
    assert not used['subtrain'] & used['val']


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(num_digits=(3, 2)), r'\(fewest, most\)'),
        (dict(digit_size=(24, 90)), r'within \[8, 0.8 \* size = 76.8\]'),
    ],
)
def test_wrong_settings_are_explained(settings, message):
    with pytest.raises(ValueError, match=message):
        DigitScenes('train', **settings)


def test_classification_pipeline():
    dataset = DATASETS.build(
        dict(
            type='frskd_mm.DigitScenesCls',
            split='test',
            num_scenes=12,
            scene=dict(size=48, digit_size=(20, 30)),
            pipeline=[dict(type='mmpretrain.PackInputs')],
        )
    )
    assert len(dataset) == 12
    packed = dataset[5]
    assert packed['inputs'].shape == (3, 48, 48)
    scene = dataset.scenes.draw(5)
    assert packed['data_samples'].gt_label.item() == scene.labels[0]
    assert torch.equal(packed['inputs'], torch.tensor(scene.img).permute(2, 0, 1))


def seg_dataset(**kwargs):
    return DATASETS.build(
        dict(
            type='frskd_mm.DigitScenesSeg',
            num_scenes=4,
            pipeline=[
                dict(type='mmseg.LoadImageFromNDArray'),
                dict(type='mmseg.RandomFlip', prob=1.0),
                dict(type='mmseg.PackSegInputs'),
            ],
            **kwargs,
        )
    )


def test_segmentation_pipeline_flips_image_and_labels():
    dataset = seg_dataset()
    packed, scene = dataset[2], dataset.scenes.draw(2)
    expected = np.ascontiguousarray(scene.img[:, ::-1].transpose(2, 0, 1))
    np.testing.assert_array_equal(packed['inputs'].numpy(), expected)
    labels = packed['data_samples'].gt_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(labels, scene.seg_map[:, ::-1])
    assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == 11


def test_segmentation_of_chosen_classes():
    classes = ('background', '3', '7')
    labels = [
        info['gt_seg_map']
        for info in map(
            seg_dataset(metainfo=dict(classes=classes)).get_data_info, range(4)
        )
    ]
    original = [DigitScenes('train').draw(index).seg_map for index in range(4)]
    for new, old in zip(labels, original):
        np.testing.assert_array_equal(new == 1, old == 1 + 3)
        np.testing.assert_array_equal(new == 2, old == 1 + 7)
        np.testing.assert_array_equal(new == 0, old == 0)
    assert set(np.unique(labels)) <= {0, 1, 2, IGNORE_INDEX}


def test_detection_pipeline_gives_boxes_and_masks():
    dataset = DATASETS.build(
        dict(
            type='frskd_mm.DigitScenesDet',
            num_scenes=4,
            pipeline=[
                dict(type='mmdet.LoadImageFromNDArray'),
                dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
                dict(type='mmdet.PackDetInputs'),
            ],
        )
    )
    for index in range(4):
        instances = dataset[index]['data_samples'].gt_instances
        scene = dataset.scenes.draw(index)
        np.testing.assert_array_equal(instances.labels.numpy(), scene.labels)
        np.testing.assert_array_equal(instances.bboxes.tensor.numpy(), scene.boxes)
        np.testing.assert_array_equal(instances.masks.masks, scene.masks)
    assert dataset.get_cat_ids(1) == dataset.scenes.draw(1).labels.tolist()


@pytest.mark.parametrize('as_masks', [False, True])
def test_coco_metric_of_perfect_predictions_is_one(repo, as_masks):
    cfg = Config.fromfile(repo / 'configs/digits/retinanet_r18-c16_digit-scenes.py')
    cfg.val_dataloader.dataset.num_scenes = 40
    with DefaultScope.overwrite_default_scope('mmdet'):
        loader = Runner.build_dataloader(cfg.val_dataloader)
        from mmdet.evaluation import CocoMetric

        metric = CocoMetric(metric='segm' if as_masks else 'bbox')
        metric.dataset_meta = loader.dataset.metainfo
        for batch in loader:
            samples = []
            for sample in batch['data_samples']:
                truth = sample.gt_instances
                prediction = dict(
                    bboxes=truth.bboxes.tensor,
                    labels=truth.labels,
                    scores=torch.ones(len(truth)),
                )
                if as_masks:
                    masks = [instance['mask'] for instance in sample.instances]
                    decoded = np.stack([coco_mask.decode(mask) for mask in masks])
                    prediction['masks'] = torch.from_numpy(decoded).bool()
                samples.append(dict(sample.to_dict(), pred_instances=prediction))
            metric.process(batch, samples)
        result = metric.evaluate(len(loader.dataset))
    name = 'coco/segm_mAP' if as_masks else 'coco/bbox_mAP'
    assert result[name] == 1.0


@pytest.mark.parametrize('name', [name for pair in CONFIGS for name in pair])
def test_training_lowers_the_loss(name, repo, tmp_path):
    cfg = Config.fromfile(repo / f'configs/digits/{name}.py')
    cfg.merge_from_dict(
        {
            'work_dir': str(tmp_path),
            'log_level': 'WARNING',
            'train_dataloader.batch_size': 4,
            'train_dataloader.dataset.num_scenes': 4,
            'val_cfg': None,
            'val_dataloader': None,
            'val_evaluator': None,
        }
    )
    runner = Runner.from_cfg(cfg)
    batch = next(iter(runner.train_dataloader))
    model = runner.model
    optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    model.train()
    losses = []
    for _ in range(10):
        data = model.data_preprocessor(batch, training=True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        optim_wrapper.update_params(loss)
        losses.append(loss.item())
    assert torch.isfinite(torch.tensor(losses)).all()
    assert losses[-1] < 0.8 * losses[0]


def test_label_noise_changes_annotations_alone(scenes):
    noisy = DigitScenes('train', num_digits=(2, 4), label_noise=0.4)
    changed = total = 0
    for index, scene in enumerate(scenes):
        other = noisy.draw(index)
        for name in ('img', 'boxes', 'masks'):
            np.testing.assert_array_equal(getattr(other, name), getattr(scene, name))
        for label, mask in zip(other.labels, other.masks):
            assert {*other.seg_map[mask]} - {IGNORE_INDEX} == {label + 1}
        changed += (other.labels != scene.labels).sum()
        total += len(scene.labels)
    # Three standard deviations to either side.
    assert abs(changed / total - 0.4) < 3 * (0.24 / total) ** 0.5


def test_only_the_classes_of_metainfo_are_annotated():
    cfg = dict(type='frskd_mm.DigitScenesDet', num_scenes=20)
    whole = DATASETS.build(cfg)
    part = DATASETS.build(dict(metainfo=dict(classes=('7', '3')), **cfg))
    kept = {7: 0, 3: 1}
    for index in range(20):
        expected = [
            {**each, 'bbox_label': kept[each['bbox_label']]}
            for each in whole.get_data_info(index)['instances']
            if each['bbox_label'] in kept
        ]
        assert part.get_data_info(index)['instances'] == expected
    assert any(part.get_data_info(index)['instances'] for index in range(20))
