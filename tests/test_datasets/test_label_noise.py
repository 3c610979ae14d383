"""Wrong annotations on purpose: which, how many, and that they stay the same."""

import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

from frskd_mm.datasets import LabelNoise


def annotated(index, **labels):
    return dict(sample_idx=index, **labels)


def test_a_fraction_of_the_boxes_becomes_any_other_class():
    noise = LabelNoise(0.4, num_classes=3)
    labels = np.repeat(np.arange(3), 1000)
    noisy = noise(annotated(7, gt_bboxes_labels=labels.copy()))['gt_bboxes_labels']
    assert noisy.dtype == labels.dtype
    shifts = np.bincount((noisy - labels) % 3, minlength=3) / len(labels)
    # Four standard deviations to either side.
    np.testing.assert_allclose(shifts, [0.6, 0.2, 0.2], atol=0.036)


def test_the_noise_follows_from_seed_and_sample():
    def draw(index, seed=0):
        labels = np.zeros(50, dtype=np.int64)
        noise = TRANSFORMS.build(
            dict(type='frskd_mm.LabelNoise', fraction=0.5, num_classes=5, seed=seed)
        )
        return noise(annotated(index, gt_bboxes_labels=labels))['gt_bboxes_labels']

    assert (draw(3) == draw(3)).all()
    assert (draw(3) != draw(4)).any()
    assert (draw(3) != draw(3, seed=1)).any()


def test_images_are_annotated_one_by_one():
    noise = LabelNoise(0.4, num_classes=10)
    labels = [noise(annotated(i, gt_label=2))['gt_label'] for i in range(1000)]
    assert {type(label) for label in labels} == {int}
    assert set(labels) == {*range(10)}
    assert abs(np.mean(np.array(labels) != 2) - 0.4) < 0.062


def test_regions_of_a_label_map_change_as_a_whole():
    clean = np.zeros((60, 60), dtype=np.uint8)
    clean[::3] = 255  # between the regions, and of no class
    clean[:, ::3] = 255
    noisy = LabelNoise(0.4, num_classes=4)(annotated(0, gt_seg_map=clean.copy()))
    noisy = noisy['gt_seg_map']
    assert noisy.dtype == clean.dtype
    assert (noisy[clean == 255] == 255).all()
    regions = np.stack([noisy[1::3, 1::3], noisy[2::3, 2::3], noisy[1::3, 2::3]])
    assert (regions == regions[0]).all()
    assert abs(np.mean(regions[0] != 0) - 0.4) < 0.1
    assert set(regions[0].ravel()) == {0, 1, 2, 3}


def test_the_labels_of_the_data_set_are_left_alone():
    """Data sets in memory hand out the arrays that they keep."""
    kept = np.zeros((8, 8), dtype=np.uint8)
    boxes = np.zeros(8, dtype=np.int64)
    noise = LabelNoise(1.0, num_classes=2)
    results = noise(annotated(0, gt_seg_map=kept, gt_bboxes_labels=boxes))
    assert results['gt_seg_map'].all()
    assert results['gt_bboxes_labels'].all()
    assert not kept.any()
    assert not boxes.any()


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        (dict(gt_label=3), 'met the label 3 with num_classes=3'),
        (dict(gt_bboxes_labels=np.array([0, -1])), 'met the label -1'),
        (dict(gt_seg_map=np.full((2, 2), 9, np.uint8)), 'met the label 9'),
        (dict(img=None), r"neither gt_label .* \['img', 'sample_idx'\]"),
    ],
)
def test_wrong_samples_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        LabelNoise(0.4, num_classes=3)(annotated(0, **labels))
