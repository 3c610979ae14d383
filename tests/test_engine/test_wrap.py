"""Any upstream config becomes one that trains with a method."""

import json
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from frskd_mm.engine import load_config, method_names, student_config, wrap
from frskd_mm.engine.methods import method_files
from frskd_mm.models import FRSKD, Distilled
from frskd_mm.models.distilled import distill, is_distilled

UPSTREAM = {
    'cls': 'mmpretrain::resnet/resnet18_8xb16_cifar10.py',
    'seg': 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'det': 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
}


def classifier(backbone, in_channels, **cfg):
    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                backbone=backbone,
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=5, in_channels=in_channels),
            ),
            **cfg,
        )
    )


def resnet(**cfg):
    backbone = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
    return classifier({**backbone, 'num_stages': 4}, 64, **cfg)


def build(cfg):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('task', sorted(UPSTREAM))
@pytest.mark.parametrize(
    ('method', 'has_features'), [('frskd', True), ('frskd-f', False)]
)
def test_upstream_configs_of_every_task(task, method, has_features, tmp_path):
    plain = load_config(UPSTREAM[task])
    before = deepcopy(plain._cfg_dict.to_dict())
    cfg = wrap(plain, method)

    assert plain._cfg_dict.to_dict() == before
    assert cfg.model.student.to_dict() == before['model']
    rest = {k: v for k, v in before.items() if k not in ('model', 'custom_imports')}
    assert {k: cfg[k] for k in rest} == rest

    model = build(cfg)
    assert isinstance(model, Distilled)
    assert bool(model.distiller.feature_loss.loss_weight) is has_features

    cfg.dump(tmp_path / 'resolved.py')
    assert Config.fromfile(tmp_path / 'resolved.py').to_dict() == cfg.to_dict()


@pytest.fixture
def counted(monkeypatch):
    """How many ResNets were built, and how often one ran."""
    import mmdet.models.backbones.resnet as mmdet_resnet
    import mmpretrain.models.backbones.resnet as mmpretrain_resnet
    import mmseg.models.backbones.resnet as mmseg_resnet

    counts = Counter()

    def spy(cls, method):
        own = getattr(cls, method)

        def counting(self, *args, **kwargs):
            counts[method] += 1
            return own(self, *args, **kwargs)

        monkeypatch.setattr(cls, method, counting)

    for module in (mmdet_resnet, mmpretrain_resnet, mmseg_resnet):
        for method in ('__init__', 'forward'):
            spy(module.ResNet, method)
    return counts


@pytest.mark.parametrize(
    ('config', 'method', 'runs'),
    [
        ('cls', 'frskd', 1),
        ('cls', 'cs-kd', 0),
        ('cls', 'label-smoothing', 0),
        ('seg', 'frskd', 1),
        ('det', 'frskd', 1),
    ],
)
def test_one_build_and_one_run_tell_what_a_method_needs(config, method, runs, counted):
    plain = {
        'cls': resnet(train_dataloader=dict(dataset=dict(type='CIFAR10'))),
        'seg': load_config('frskd_mm::digits/fcn_r18-c16_digit-scenes.py'),
        'det': load_config('frskd_mm::digits/retinanet_r18-c16_digit-scenes.py'),
    }[config]
    cfg = wrap(plain, method)
    assert counted == Counter({'__init__': 1, 'forward': runs})
    counted.clear()
    build(cfg)  # as training does, on the student and for the self-teacher
    assert counted == Counter({'__init__': 1, 'forward': runs})


@pytest.mark.parametrize('task', sorted(UPSTREAM))
@pytest.mark.parametrize('method', ['frskd', 'kd'])
def test_the_way_back_leads_to_the_plain_config(task, method):
    plain = load_config(UPSTREAM[task], {'custom_hooks': [dict(type='EMAHook')]})
    back = student_config(wrap(plain, method))
    assert back.to_dict() == plain.to_dict()


def test_pairs_imports_and_hooks_are_taken_back():
    loader = dict(dataset=dict(type='CIFAR10'), collate_fn=dict(type='default_collate'))
    plain = resnet(
        train_dataloader=loader, custom_imports=dict(imports='json'), my_hooks=[]
    )
    cfg = wrap(plain, 'cs-kd')
    assert cfg.train_dataloader.dataset.type == 'frskd_mm.PairDataset'
    back = student_config(cfg)
    assert back.custom_imports.imports == ['json']
    plain.custom_imports.imports = ['json']
    assert back.to_dict() == plain.to_dict()


def test_hooks_that_a_plain_model_refuses_are_taken_back():
    hooks = ['frskd_mm.SelfTeacherMetricHook', 'InsideHook', 'EMAHook']
    cfg = wrap(resnet(custom_hooks=[dict(type=name) for name in hooks]), 'frskd')
    assert student_config(cfg).custom_hooks == [dict(type='EMAHook')]


def test_methods_named_by_their_class(tmp_path):
    """As in pure Python configs."""
    method = tmp_path / 'mine.py'
    method.write_text(
        'from frskd_mm.models import FRSKD\ndistiller = dict(type=FRSKD)\n'
    )
    cfg = wrap(resnet(), str(method))
    assert cfg.model.distiller.type is FRSKD
    cfg.model.type = distill
    assert student_config(cfg).model.type == 'ImageClassifier'


def test_none_leaves_the_config_as_it_is():
    cfg = resnet()
    assert wrap(cfg, 'none') is cfg


def test_an_unknown_method_is_told_the_names():
    with pytest.raises(ValueError, match=r"no method 'fskd'.*none, .*frskd, .*frskd-f"):
        wrap(resnet(), 'fskd')


def test_methods_of_one_task_are_not_offered_for_others():
    assert {'frskd', 'frskd-f', 'cs-kd'} <= set(method_names('cls'))
    assert 'cs-kd' not in method_names('det')
    assert not {'none', 'frskd_cls'} & set(method_names('cls'))


def test_distilled_and_incomplete_configs_are_refused(repo):
    with pytest.raises(ValueError, match='distilled already'):
        wrap(wrap(resnet()))
    with pytest.raises(ValueError, match='no model=dict'):
        wrap(Config(dict(optim_wrapper=dict())))


def test_settings_of_the_method_can_be_given():
    cfg = resnet()
    cfg.merge_from_dict({'model.distiller.neck.width': 1})
    cfg = wrap(cfg, distiller=dict(detach_inputs=False))
    assert 'distiller' not in cfg.model.student
    assert cfg.model.distiller.neck.width == 1
    assert cfg.model.distiller.neck.depth == 2
    assert cfg.model.distiller.detach_inputs is False


def test_the_config_names_what_it_needs_and_is_named_after_its_origin():
    cfg = resnet(custom_imports=dict(imports='json', allow_failed_imports=False))
    cfg = wrap(cfg)
    assert cfg.custom_imports.imports == ['json', 'frskd_mm']
    assert cfg.custom_imports.allow_failed_imports is False
    assert wrap(load_config(UPSTREAM['cls'])).filename == (
        'frskd_resnet18_8xb16_cifar10.py'
    )


def test_methods_on_pairs_wrap_the_training_set():
    loader = dict(dataset=dict(type='CIFAR10'), collate_fn=dict(type='default_collate'))
    cfg = wrap(resnet(train_dataloader=loader, val_dataloader=loader), 'cs-kd')
    assert cfg.train_dataloader.dataset == dict(
        type='frskd_mm.PairDataset', partner='same_class', dataset=loader['dataset']
    )
    assert cfg.train_dataloader.collate_fn.type == 'frskd_mm.collate_pairs'
    assert cfg.val_dataloader == loader
    assert 'out_indices' not in cfg.model.student.backbone  # reads logits alone


@pytest.mark.parametrize('method', method_names('cls'))
def test_a_file_that_inherits_a_method_is_the_method(method, tmp_path):
    name = Path(method_files('cls')[method]).name
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'frskd_mm::_base_/methods/{name}'")
    loader = dict(dataset=dict(type='CIFAR10'), collate_fn=dict(type='default_collate'))
    plain = resnet(train_dataloader=loader)
    assert wrap(plain, str(path)).to_dict() == wrap(plain, method).to_dict()


def test_a_method_keeps_its_own_variables(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        "_base_ = 'frskd_mm::_base_/methods/frskd_cls.py'\n"
        '_alpha = 3.0\n'
        'distiller = dict(soft_label=dict(loss_weight=_alpha))\n'
    )
    cfg = wrap(resnet(), str(path))
    assert cfg.model.distiller.soft_label.loss_weight == 3.0
    assert '_alpha' not in cfg
    assert not [name for name in wrap(resnet(), 'frskd-bifpn') if name[0] == '_']


LAZY = """
from mmpretrain.models import (
    CrossEntropyLoss, GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet)
default_scope = 'mmpretrain'
model = dict(
    type=ImageClassifier,
    backbone=dict(type=ResNet, depth=18, base_channels=8, stem_channels=8),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=5, in_channels=64,
              loss=dict(type=CrossEntropyLoss)))
"""


def test_configs_that_import_their_types(tmp_path):
    (tmp_path / 'lazy.py').write_text(LAZY)
    plain = load_config(str(tmp_path / 'lazy.py'))
    smooth = wrap(plain, 'label-smoothing')
    assert smooth.model.head.loss.type == 'LabelSmoothLoss'
    build(smooth)
    assert student_config(wrap(plain, 'frskd')).to_dict() == plain.to_dict()


CUTMIX = dict(type='CutMix', alpha=1.0)
BOTH = [dict(type='Mixup', alpha=0.8), CUTMIX]


@pytest.mark.parametrize('method', ['frskd-mixup', 'frskd-cutmix'])
@pytest.mark.parametrize('form', ['train_cfg', 'data_preprocessor'])
def test_a_recipe_that_mixes_images_is_not_changed(method, form):
    cfg = resnet()
    if form == 'train_cfg':
        cfg.model.train_cfg = dict(augments=BOTH)
    else:
        cfg.data_preprocessor = dict(batch_augments=dict(augments=BOTH))
    with pytest.raises(ValueError, match=f'{method} sets .*0.8.*such as frskd'):
        wrap(cfg, method)
    assert wrap(cfg, 'frskd').model.student.get('train_cfg') == cfg.model.get(
        'train_cfg'
    )


def test_the_same_mixing_may_be_named_twice():
    cfg = resnet()
    cfg.model.train_cfg = dict(augments=CUTMIX)
    assert wrap(cfg, 'frskd-cutmix').model.to_dict() == wrap(cfg).model.to_dict()


def test_the_student_is_the_plain_model():
    plain = classifier(dict(type='MobileNetV2', widen_factor=0.25), 1280)
    cfg = wrap(plain)
    before, after = build(plain).eval(), build(cfg).eval()
    assert after.backbone.out_indices == before.backbone.out_indices
    after.load_state_dict(before.state_dict(), strict=False)
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(after(image), before(image), rtol=0, atol=0)


def test_levels_that_the_user_set_stay():
    cfg = resnet()
    cfg.model.backbone.out_indices = (2, 3)
    assert wrap(cfg).model.student.backbone.out_indices == (2, 3)


def test_a_larger_dry_image_is_found(caplog):
    arch = dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2])
    cfg = wrap(classifier(dict(type='SwinTransformer', arch=arch, img_size=256), 128))
    assert cfg.model.distiller.input_size == (256, 256)
    build(cfg)


def test_an_image_of_the_training_size_is_tried():
    """LeNet5 takes images of 32 pixels alone."""
    loader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=32)]))
    cfg = classifier(dict(type='LeNet5', num_classes=5), 5, train_dataloader=loader)
    cfg.model.neck, cfg.model.head = None, dict(type='ClsHead')
    cfg = wrap(cfg)
    assert cfg.model.distiller.input_size == (32, 32)
    assert build(cfg).distiller.self_teacher.in_channels == [6, 16, 16, 120]


RUN = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner
assert 'frskd_mm' not in sys.modules
cfg = Config.fromfile(sys.argv[1])
cfg.work_dir = sys.argv[2]
Runner.from_cfg(cfg).train()
"""


def test_the_written_config_runs_alone_with_the_same_result(repo, tmp_path):
    first, second, elsewhere = (tmp_path / name for name in ('a', 'b', 'c'))
    elsewhere.mkdir()
    command = [sys.executable, repo / 'tools/train.py']
    command += [repo / 'configs/digits/wrn10-1_digits.py', '--method', 'frskd']
    command += ['--work-dir', first, '--no-validate', '--cfg-options']
    command += ['train_cfg.max_epochs=1', 'default_hooks.logger.interval=1']
    command += ['default_hooks.checkpoint.interval=1']
    subprocess.run(command, check=True, capture_output=True, cwd=repo)
    resolved = first / 'frskd_wrn10-1_digits.py'
    alone = [sys.executable, '-c', RUN, resolved, second]
    subprocess.run(alone, check=True, capture_output=True, cwd=elsewhere)

    logs = []
    for folder in (first, second):
        (path,) = folder.glob('*/vis_data/scalars.json')
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        logs.append([{k: v for k, v in x.items() if 'loss' in k} for x in lines])
    assert len(logs[0]) == 10
    assert {'student.loss', 'self_teacher.loss', 'loss_kd', 'loss_at'} <= set(
        logs[0][0]
    )
    assert logs[0] == logs[1]
    weights = [
        torch.load(folder / 'epoch_1.pth', weights_only=False)['state_dict']
        for folder in (first, second)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_layer_wise_learning_rates_treat_the_distiller_like_a_head():
    from mmdet.engine.optimizers import layer_decay_optimizer_constructor as mmdet_decay
    from mmengine.optim import build_optim_wrapper

    arch = dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2])
    cfg = wrap(classifier(dict(type='SwinTransformer', arch=arch), 128))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        wrapper = build_optim_wrapper(
            build(cfg),
            dict(
                optimizer=dict(type='SGD', lr=0.1, weight_decay=0.05),
                constructor='LearningRateDecayOptimWrapperConstructor',
                paramwise_cfg=dict(layer_decay_rate=0.5),
            ),
        )
    rates = {g['param_name']: g['lr'] for g in wrapper.optimizer.param_groups}
    assert rates['backbone.patch_embed.projection.weight'] < rates['head.fc.weight']
    distiller = [rate for name, rate in rates.items() if name.startswith('distiller.')]
    assert set(distiller) == {rates['head.fc.weight']} == {0.1}

    layer_id = mmdet_decay.get_layer_id_for_convnext
    name = 'distiller.self_teacher.neck.layers.0.weight'
    assert layer_id(name, 12) == layer_id('bbox_head.fc_cls.weight', 12) == 13


def test_a_preprocessor_beside_the_student_goes_with_it():
    cfg = wrap(resnet(), 'frskd')
    cfg.pop('data_preprocessor', None)
    given = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    cfg.model.data_preprocessor = given
    assert student_config(cfg).model.data_preprocessor == given
    own = dict(mean=[0.0] * 3, std=[1.0] * 3)
    cfg.model.student.data_preprocessor = own
    assert student_config(cfg).model.data_preprocessor == own


@pytest.mark.parametrize('module', ['models', 'models.distilled'])
def test_a_dumped_config_of_imported_python_is_distilled(module, tmp_path):
    cfg = wrap(resnet(), 'frskd')
    (tmp_path / 'lazy.py').write_text(
        f'from frskd_mm.{module} import distill\n'
        f'model = {cfg.model.to_dict()}\nmodel.update(type=distill)\n'
    )
    load_config(str(tmp_path / 'lazy.py')).dump(str(tmp_path / 'dumped.py'))
    dumped = load_config(str(tmp_path / 'dumped.py'))
    assert dumped.model.type == f'frskd_mm.{module}.distill'
    assert is_distilled(dumped.model)
    assert student_config(dumped).model.type == 'ImageClassifier'


def test_what_a_config_imports_stays_what_it_is(tmp_path):
    (tmp_path / 'lazy.py').write_text(
        'import math\nimport os.path as osp\nfrom torch.nn import GELU\n'
        f'{LAZY}my_activation = GELU\n'
    )
    cfg = wrap(load_config(str(tmp_path / 'lazy.py')), 'frskd')
    assert cfg.my_activation is torch.nn.GELU
    assert cfg.pretty_text


@pytest.mark.parametrize(
    'loss', [dict(class_weight=[1.0] * 10), dict(loss_weight=2.0)], ids=str
)
def test_label_smoothing_drops_no_settings_of_the_loss(loss):
    cfg = resnet()
    cfg.model.head.loss = dict(
        type='CrossEntropyLoss', loss_weight=1.0, _scope_='mmpretrain'
    )
    assert wrap(cfg, 'label-smoothing').model.head.loss.type == 'LabelSmoothLoss'
    cfg.model.head.loss.update(loss)
    with pytest.raises(ValueError, match=f'whose {[*loss][0]} would be lost'):
        wrap(cfg, 'label-smoothing')


def test_label_smoothing_is_for_one_label_an_image():
    cfg = resnet()
    cfg.model.head.type = 'MultiLabelLinearClsHead'
    cfg.model.head.pop('loss', None)
    with pytest.raises(TypeError, match='one label an image'):
        wrap(cfg, 'label-smoothing')


def test_a_config_that_inherits_this_package_s_is_wrapped_as_mmengine_reads_it(
    tmp_path,
):
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = ['frskd_mm::digits/wrn10-1_digits.py']\n")
    cfg = wrap(Config.fromfile(str(path)), 'frskd')
    assert isinstance(build(cfg), Distilled)


def test_pairs_need_a_training_set():
    with pytest.raises(ValueError, match='no train_dataloader whose data set'):
        wrap(resnet(), 'cs-kd')
