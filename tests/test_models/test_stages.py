"""Students whose backbones return one map, tokens or vectors, as they are."""

import pytest
import torch
from contracts import owners_trained
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models.backbones import ResNet

from frskd_mm.engine import wrap
from frskd_mm.lab.trial import random_batch
from frskd_mm.models.tasks.base import DryForwardError
from frskd_mm.utils.forms import Form, read_form, sides

VIT = dict(
    arch=dict(embed_dims=16, num_layers=5, num_heads=2, feedforward_channels=32),
    img_size=32,
    patch_size=8,
)
CLS_HEAD = dict(type='LinearClsHead', in_channels=16)
VIT_HEAD = dict(type='VisionTransformerClsHead', in_channels=16)
GAP = dict(type='GlobalAveragePooling')
FOUR = dict(depths=[1, 1, 1, 1], channels=[8, 16, 24, 32])

# Name -> (backbone, neck, head, names of the stages).
CLASSIFIERS = {
    'ViT': (
        dict(type='VisionTransformer', **VIT),
        None,
        VIT_HEAD,
        ['layers.0', 'layers.1', 'layers.2', 'layers.4'],
    ),
    'DeiT3': (
        dict(type='DeiT3', **VIT),
        None,
        VIT_HEAD,
        ['layers.0', 'layers.1', 'layers.2', 'layers.4'],
    ),
    'EVA02': (
        dict(type='ViTEVA02', **VIT),
        None,
        CLS_HEAD,
        ['layers.0', 'layers.1', 'layers.2', 'layers.4'],
    ),
    'BEiT': (
        dict(type='BEiTViT', out_type='avg_featmap', **VIT),
        None,
        CLS_HEAD,
        ['layers.0', 'layers.1', 'layers.2', 'layers.4'],
    ),
    'DINOv2, with a map': (
        dict(type='VisionTransformer', out_type='featmap', **VIT),
        GAP,
        CLS_HEAD,
        ['layers.0', 'layers.1', 'layers.2', 'its output'],
    ),
    'CLIP, projected': (
        dict(type='VisionTransformer', pre_norm=True, **VIT),
        dict(type='LinearNeck', in_channels=16, out_channels=12),
        dict(type='LinearClsHead', in_channels=12),
        ['layers.0', 'layers.1', 'layers.2', 'layers.4'],
    ),
    'XCiT': (
        dict(
            type='XCiT',
            embed_dims=16,
            depth=4,
            num_heads=2,
            cls_attn_layers=1,
            patch_size=8,
            img_size=32,
        ),
        None,
        CLS_HEAD,
        ['xca_layers.0', 'xca_layers.1', 'xca_layers.2', 'xca_layers.3'],
    ),
    'ConvNeXt v2': (
        dict(type='ConvNeXt', arch=FOUR, use_grn=True, layer_scale_init_value=0.0),
        None,
        dict(type='LinearClsHead', in_channels=32),
        ['stages.0', 'stages.1', 'stages.2', 'stages.3'],
    ),
    'Swin': (
        dict(
            type='SwinTransformer',
            img_size=32,
            window_size=4,
            arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2]),
        ),
        GAP,
        dict(type='LinearClsHead', in_channels=64),
        ['stages.0', 'stages.1', 'stages.2', 'its output'],
    ),
    'MLP-Mixer': (
        dict(
            type='MlpMixer',
            img_size=32,
            patch_size=8,
            arch=dict(
                embed_dims=24, num_layers=4, tokens_mlp_dims=8, channels_mlp_dims=32
            ),
        ),
        dict(type='GlobalAveragePooling', dim=1),
        dict(type='LinearClsHead', in_channels=24),
        ['layers.0', 'layers.1', 'layers.2', 'its output'],
    ),
    'EfficientFormer': (
        dict(
            type='EfficientFormer',
            arch=dict(
                layers=[1, 1, 1, 2],
                embed_dims=[8, 8, 16, 16],
                downsamples=[False, True, True, True],
                vit_num=1,
            ),
        ),
        dict(type='GlobalAveragePooling', dim=1),
        dict(type='EfficientFormerClsHead', in_channels=16, distillation=False),
        ['network.0', 'network.1', 'network.2', 'its output'],
    ),
    'ArcFace': (
        dict(type='ResNet', depth=18, base_channels=4, stem_channels=4),
        GAP,
        dict(type='ArcFaceClsHead', in_channels=32, loss=dict(type='CrossEntropyLoss')),
        ['layer1', 'layer2', 'layer3', 'its output'],
    ),
}


def classifier(name):
    backbone, neck, head, _ = CLASSIFIERS[name]
    head = dict(head, num_classes=7)
    model = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    return Config(dict(default_scope='mmpretrain', model=model))


def build(cfg):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
        return model


def own_weights(model):
    return {k: v for k, v in model.state_dict().items() if k[:10] != 'distiller.'}


def batch_of(cfg, model, size):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        batch = random_batch(cfg, 2, (size, size), num_classes=2)
        return model.data_preprocessor(batch, training=True)


def reached(model, losses, names):
    """The first parts of the names of parameters that terms reach."""
    return owners_trained(model, sum(losses[name].sum() for name in names))


@pytest.mark.parametrize('name', sorted(CLASSIFIERS))
def test_a_classifier_trains_as_it_is(name):
    cfg = classifier(name)
    wrapped = wrap(cfg)
    plain, model = build(cfg), build(wrapped)
    assert [stage.name for stage in model.distiller.levels.stages] == (
        CLASSIFIERS[name][3]
    )

    own = own_weights(model)
    assert own.keys() == plain.state_dict().keys()
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(own[key], value, rtol=0, atol=0)

    for head in (model.head, model.distiller.self_teacher.twin.head):
        for parameter in head.parameters():  # zeros at first in some
            torch.nn.init.normal_(parameter, std=0.1)
    size = wrapped.model.distiller.get('input_size', (32, 32))[0]
    model.train()
    losses = model(**batch_of(cfg, model, size), mode='loss')
    terms = {k: float(v) for k, v in losses.items() if 'loss' in k}
    assert {'student.loss', 'self_teacher.loss', 'loss_kd', 'loss_at'} <= terms.keys()
    assert all(0 < value < float('inf') for value in terms.values()), terms
    assert reached(model, losses, ['self_teacher.loss']) == {'distiller'}
    assert reached(model, losses, ['loss_at']) == {'backbone'}
    assert reached(model, losses, ['loss_kd']) <= {'backbone', 'neck', 'head'}

    load_state_dict(plain, own_weights(model), strict=True)
    image = torch.randn(2, 3, size, size)
    torch.testing.assert_close(model.eval()(image), plain.eval()(image), rtol=0, atol=0)
    batch = batch_of(cfg, model, size)
    with model.as_self_teacher():
        assert len(model(**batch, mode='predict')) == 2


def test_arcface_compares_what_it_predicts_from():
    """Its logits in training have a margin at the label."""
    cfg = classifier('ArcFace')
    model = build(wrap(cfg)).eval()
    batch = batch_of(cfg, model, 64)
    distiller = model.distiller
    one = distiller.run_student(model, **batch, source=distiller.levels)
    (pair,) = distiller.task.soft_labels(one, one, batch['data_samples'])
    expected = model.head(model.extract_feat(batch['inputs']))
    torch.testing.assert_close(pair.student_cls, expected)


def test_several_necks_that_read_several_maps():
    """As of HRNet."""
    cfg = classifier('ArcFace')
    cfg.model.backbone.out_indices = [0, 1, 2, 3]
    cfg.model.neck = [dict(type='HRFuseScales', in_channels=[4, 8, 16, 32]), GAP]
    cfg.model.head = dict(type='LinearClsHead', in_channels=2048, num_classes=7)
    model = build(wrap(cfg)).train()
    losses = model(**batch_of(cfg, model, 64), mode='loss')
    model.parse_losses(losses)[0].backward()
    assert losses['loss_kd'] > 0
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ('settings', 'stages'),
    [
        (
            dict(),
            [f'timm_model.layer{i}' for i in (1, 2, 3)] + ['its output'],
        ),
        (dict(features_only=True), ['its output'] * 5),
    ],
    ids=['one map', 'features_only'],
)
def test_timm_returns_one_map_or_several(settings, stages):
    pytest.importorskip('timm')
    cfg = classifier('Swin')
    cfg.model.backbone = dict(type='TIMMBackbone', model_name='test_resnet', **settings)
    cfg.model.head.in_channels = 96
    wrapped = wrap(cfg)
    assert wrapped.model.student == cfg.model
    model = build(wrapped).train()
    assert [stage.name for stage in model.distiller.levels.stages] == stages
    losses = model(**batch_of(cfg, model, 64), mode='loss')
    assert reached(model, losses, ['loss_at']) == {'backbone'}
    assert 0 < losses['loss_kd'] < float('inf')


@pytest.mark.parametrize(
    ('name', 'why', 'chosen'),
    [
        ('ViT', 'at even distances, since all maps have one size', 'layers.4'),
        ('Swin', 'of each map size the deepest', 'its output'),
    ],
)
def test_what_is_recorded_why_and_how_to_choose_is_printed(name, why, chosen, caplog):
    cfg = wrap(classifier(name))
    logger = MMLogger.get_instance('stages', log_level='INFO')
    logger.addHandler(caplog.handler)
    build(cfg)
    logger.removeHandler(caplog.handler)
    names = ', '.join(CLASSIFIERS[name][3])
    assert f'recorded as it runs, {why}: {names}' in caplog.text
    assert names.endswith(chosen)
    assert "Others: the distiller's stages, names of its modules or" in caplog.text


@pytest.mark.parametrize('method', ['byot', 'sad', 'uskd'])
def test_methods_that_compare_stages_record_them(method):
    cfg = classifier('ViT')
    model = build(wrap(cfg, method)).train()
    assert len(model.distiller.levels.stages) == 4
    losses = model(**batch_of(cfg, model, 32), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)


@pytest.mark.parametrize(
    ('stages', 'names'),
    [
        ((1, 3), ['layers.1', 'layers.3']),
        (('layers.2', 'ln1'), ['layers.2', 'ln1']),
    ],
)
def test_stages_can_be_chosen(stages, names):
    cfg = wrap(classifier('ViT'), distiller=dict(stages=stages))
    assert [stage.name for stage in build(cfg).distiller.levels.stages] == names


@pytest.mark.parametrize('stages', [(9,), ('layers.7',), ('drop_after_pos.x', 1)])
def test_stages_that_are_not_there_are_refused(stages):
    with pytest.raises(ValueError, match=r'is no stage of the backbone.*layers\.4'):
        wrap(classifier('ViT'), distiller=dict(stages=stages))


class Broken(ResNet):
    """A backbone that fails in the way that a test wants."""

    def __init__(self, error, **kwargs):
        super().__init__(depth=18, **kwargs)
        self.error = error

    def forward(self, x):
        size = tuple(x.shape[2:])
        if self.error == 'fixed':
            assert size == (96, 96), f'an image of {size[0]}, not of 96'
        if self.error == 'silent':
            assert size == (96, 96)
        if self.error == 'channels':
            x = x[:, :2]
        if self.error == 'attribute':
            return self.nothing
        if self.error == 'value':
            raise ValueError('the weights are not there')
        return super().forward(x)


class TestAdviceOnTheImageSize:
    @staticmethod
    def distilled(error):
        backbone = dict(type=Broken, error=error, base_channels=4, stem_channels=4)
        model = dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=GAP,
            head=dict(type='LinearClsHead', in_channels=32, num_classes=7),
        )
        return Config(dict(default_scope='mmpretrain', model=model))

    def messages(self, error):
        """What is said where the config is wrapped, and where it is built."""
        cfg = self.distilled(error)
        found = []
        with pytest.raises(DryForwardError) as raised:
            wrap(cfg)
        found.append(str(raised.value))
        distiller = wrap(classifier('ViT')).model.distiller
        distiller.pop('input_size', None)
        cfg.model = dict(
            type='frskd_mm.Distilled', student=cfg.model, distiller=distiller
        )
        with pytest.raises(DryForwardError) as raised:
            build(cfg)
        return [*found, str(raised.value)]

    @pytest.mark.parametrize('error', ['fixed', 'silent'])
    def test_given_where_the_size_is_why(self, error):
        for message in self.messages(error):
            assert 'does not run on an image of' in message
            assert 'AssertionError' in message
            assert 'Set input_size=(height, width)' in message

    @pytest.mark.parametrize('error', ['channels', 'attribute', 'value'])
    def test_not_given_where_it_is_not(self, error):
        reason = {
            'channels': 'to have 3 channels, but got 2',
            'attribute': "no attribute 'nothing'",
            'value': 'the weights are not there',
        }[error]
        for message in self.messages(error):
            assert reason in message
            assert 'input_size' not in message
            assert 'see whether the plain student trains' in message

    def test_the_size_that_is_set_is_taken(self):
        cfg = self.distilled('fixed')
        wrapped = wrap(cfg, distiller=dict(input_size=(96, 96)))
        assert build(wrapped).distiller.levels.shapes[-1] == (32, 3, 3)


class TestReversibleLayers:
    """RevViT's own backward pass leaves its layers' outputs without gradients."""

    @staticmethod
    def revvit(**kwargs):
        backbone = dict(type='RevVisionTransformer', **VIT, **kwargs)
        head = dict(type='LinearClsHead', in_channels=32, num_classes=7)
        model = dict(type='ImageClassifier', backbone=backbone, head=head)
        return Config(dict(default_scope='mmpretrain', model=model))

    def test_they_are_refused_when_built(self):
        cfg = self.revvit()
        with pytest.raises(ValueError, match='has no gradient.*no_custom_backward'):
            wrap(cfg)
        distiller = wrap(self.revvit(no_custom_backward=True)).model.distiller
        cfg.model = dict(
            type='frskd_mm.Distilled', student=cfg.model, distiller=distiller
        )
        with pytest.raises(ValueError, match='has no gradient.*no_custom_backward'):
            build(cfg)

    def test_the_setting_that_is_named_works(self):
        cfg = self.revvit(no_custom_backward=True)
        model = build(wrap(cfg)).train()
        losses = model(**batch_of(cfg, model, 32), mode='loss')
        assert reached(model, losses, ['loss_at']) == {'backbone'}
        assert all(value > 0 for name, value in losses.items() if 'loss' in name)

    def test_frozen_ones_have_nothing_to_be_trained(self):
        cfg = self.revvit(no_custom_backward=False, frozen_stages=5)
        assert build(wrap(cfg)).distiller.levels.stages


def test_one_stage_is_too_few():
    cfg = wrap(classifier('ViT'), distiller=dict(stages=(0,)))
    with pytest.raises(ValueError, match='gives one map.*refines at least two'):
        build(cfg)


def test_out_indices_win():
    cfg = classifier('DINOv2, with a map')
    cfg.model.backbone.out_indices = [1, 4]
    levels = build(wrap(cfg)).distiller.levels
    assert levels.are_outputs
    assert levels.shapes == [(16, 8, 8)] * 2
    with pytest.raises(ValueError, match='Set student.backbone.out_indices'):
        wrap(cfg, distiller=dict(stages=(0, 1)))


def test_maps_of_images_that_are_not_square():
    """Tokens tell only how many places there are."""
    backbone = dict(CLASSIFIERS['ViT'][0], img_size=(32, 64))
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                backbone=backbone,
                head=dict(VIT_HEAD, num_classes=7),
            ),
        )
    )
    model = build(wrap(cfg))
    image = torch.randn(1, 3, 32, 64)
    feats = model.distiller.task.extract_feats(model, model.distiller.levels, image)
    assert {feat.shape for feat in feats} == {(1, 16, 4, 8)}
    tokens = []
    hook = model.backbone.layers[4].register_forward_hook(
        lambda module, args, output: tokens.append(output)
    )
    model.extract_feat(image)
    hook.remove()
    torch.testing.assert_close(feats[-1][0, :, 1, 2], tokens[0][0, 1 + 8 + 2])


@pytest.mark.parametrize(
    ('places', 'image', 'size'),
    [
        (16, (64, 64), (4, 4)),
        (200 * 334, (800, 1333), (200, 334)),
        (25 * 42, (800, 1333), (25, 42)),
        (42 * 25, (1333, 800), (42, 25)),
        (13 * 13, (208, 200), (13, 13)),
    ],
)
def test_sides_of_maps(places, image, size):
    assert sides(places, image) == size


@pytest.mark.parametrize(
    'form',
    [
        Form('map'),
        Form('map_last'),
        Form('tokens'),
        Form('tokens', 3),
        Form('tokens_last'),
    ],
)
def test_forms(form):
    feat = torch.randn(1, 5, 4, 6)
    value = form.from_map(feat)
    found, shape = read_form(value, (64, 96), [(4, 6)])
    assert found == form
    assert shape == (5, 4, 6)
    torch.testing.assert_close(form.to_map(value, (64, 96)), feat, rtol=0, atol=0)


def test_pooled_forms():
    feat = torch.randn(2, 5, 4, 6)
    assert Form('pooled').from_map(feat).shape == (2, 5)
    assert Form('pooled_map').from_map(feat).shape == (2, 5, 1, 1)
    assert read_form(torch.randn(1, 5), (64, 96), [(4, 6)]) is None
