"""One data preprocessor's images are turned into another's."""

from copy import deepcopy

import pytest
import torch
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from mmengine.registry import MODELS
from mmengine.structures import PixelData

from frskd_mm.utils.preprocessing import renormalizer

RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0])
SIZES = [(12, 15), (16, 9), (16, 16)]


def batch_for(scope, sizes=SIZES):
    """What a data loader gives: uint8 images of several sizes, and annotations."""
    from mmdet.structures import DetDataSample
    from mmpretrain.structures import DataSample
    from mmseg.structures import SegDataSample

    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    samples = []
    for size in sizes:
        kind = dict(mmpretrain=DataSample, mmseg=SegDataSample, mmdet=DetDataSample)
        sample = kind[scope](metainfo=dict(img_shape=size))
        if scope == 'mmseg':
            labels = torch.zeros(1, *size, dtype=torch.long)
            sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def preprocessor(scope, **settings):
    kinds = dict(
        mmpretrain='ClsDataPreprocessor',
        mmseg='SegDataPreProcessor',
        mmdet='DetDataPreprocessor',
    )
    if scope == 'mmpretrain' and 'bgr_to_rgb' in settings:
        settings['to_rgb'] = settings.pop('bgr_to_rgb')
    if scope == 'mmseg':
        settings['size'] = (16, 16)
        if 'pad_value' in settings:
            settings['pad_val'] = settings.pop('pad_value')
    return MODELS.build(dict(type=f'{scope}.{kinds[scope]}', **settings))


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmseg', 'mmdet'])
@pytest.mark.parametrize('swapped', [False, True], ids=['to caffe', 'from caffe'])
def test_the_students_batch_becomes_the_teachers(scope, swapped):
    student = preprocessor(scope, **RGB, bgr_to_rgb=True)
    teacher = preprocessor(scope, **CAFFE, pad_value=7.0)
    if swapped:
        student, teacher = teacher, student
    # mmpretrain does not say what it has padded.
    batch = batch_for(scope, SIZES[-1:] * 2 if scope == 'mmpretrain' else SIZES)
    given = student(deepcopy(batch), True)
    expected = teacher(deepcopy(batch), True)['inputs']
    before = given['inputs'].clone()
    images = renormalizer(student, teacher)(given['inputs'], given['data_samples'])
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=2e-4)
    assert torch.equal(given['inputs'], before)
    assert not torch.allclose(before, expected, atol=1.0)


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmseg', 'mmdet'])
def test_equal_preprocessors_change_nothing(scope):
    settings = dict(**RGB, bgr_to_rgb=True)
    pair = preprocessor(scope, **settings), preprocessor(scope, **settings)
    assert renormalizer(*pair) is None


def test_raw_images_of_one_channel_are_scaled():
    student = ImgDataPreprocessor(mean=[10.0], std=[2.0])
    image = torch.full((1, 1, 4, 4), 30.0)
    teacher = ImgDataPreprocessor(mean=[20.0], std=[5.0])
    images = renormalizer(student, teacher)((image - 10.0) / 2.0)
    torch.testing.assert_close(images, (image - 20.0) / 5.0)
    raw = renormalizer(student, BaseDataPreprocessor())((image - 10.0) / 2.0)
    torch.testing.assert_close(raw, image)


def test_more_bands_than_three_are_told_by_the_mean():
    class Bands(BaseDataPreprocessor):
        def __init__(self, mean):
            super().__init__()
            self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), False)

        def forward(self, data, training=False):
            inputs = torch.stack(self.cast_data(data)['inputs']).float() - self.mean
            return dict(inputs=inputs, data_samples=data['data_samples'])

    five, other = Bands([1.0, 2.0, 3.0, 4.0, 5.0]), Bands([5.0, 4.0, 3.0, 2.0, 1.0])
    image = torch.rand(2, 5, 4, 4)
    images = renormalizer(five, other)(image - five.mean)
    torch.testing.assert_close(images, image - other.mean)


class Greying(BaseDataPreprocessor):
    """Mixes channels."""

    def forward(self, data, training=False):
        image = data['inputs'][0].float().mean(dim=0, keepdim=True).expand(3, -1, -1)
        return dict(inputs=image[None], data_samples=None)


class Squaring(BaseDataPreprocessor):
    def forward(self, data, training=False):
        return dict(inputs=data['inputs'][0].float()[None] ** 2, data_samples=None)


class Shrinking(BaseDataPreprocessor):
    def forward(self, data, training=False):
        return dict(inputs=data['inputs'][0].float()[None, :, ::2], data_samples=None)


@pytest.mark.parametrize('kind', [Greying, Squaring, Shrinking])
def test_what_does_more_is_refused(kind):
    usual = ImgDataPreprocessor(**RGB)
    for student, teacher, owner in (
        (kind(), usual, 'student'),
        (usual, kind(), 'teacher'),
    ):
        with pytest.raises(ValueError, match=f'of the {owner}, {kind.__name__}, does'):
            renormalizer(student, teacher)
