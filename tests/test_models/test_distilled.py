"""The distilled model is the student, plus a distiller."""

import io
import logging
import pickle
from copy import deepcopy

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models import ImageClassifier
from toys import toy_batch, toy_distilled, toy_frskd_cfg, toy_student_cfg

from frskd_mm.models.distilled import Distilled, distilled_class


def plain(**student):
    """Build the toy student as mmpretrain does, with other weights."""
    model = MODELS.build({**toy_student_cfg(), **student})
    model.init_weights()
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.1)
    return model


def distilled(student, **frskd):
    model = MODELS.build(
        dict(
            type='frskd_mm.Distilled', student=student, distiller=toy_frskd_cfg(**frskd)
        )
    )
    model.init_weights()
    return model


def trained(**frskd):
    """A toy after one step, so that no statistic has its initial value."""
    model = toy_distilled(**frskd)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    total, _ = model.parse_losses(model(**toy_batch(), mode='loss'))
    total.backward()
    optimizer.step()
    optimizer.zero_grad()
    return model


def student_keys(state_dict):
    return {k: v for k, v in state_dict.items() if not k.startswith('distiller.')}


def scores(model, batch):
    model.eval()
    with torch.no_grad():
        predictions = model(**deepcopy(batch), mode='predict')
    return torch.stack([sample.pred_score for sample in predictions])


@pytest.fixture
def log(caplog):
    """What MMEngine's current logger says, from INFO on."""
    logger = MMLogger.get_instance('distilled', log_level='INFO')
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger='distilled')
    yield caplog
    logger.removeHandler(caplog.handler)


def test_is_the_student_and_a_distilled_model():
    model = toy_distilled()
    assert isinstance(model, ImageClassifier)
    assert isinstance(model, Distilled)
    assert type(model).__name__ == 'DistilledImageClassifier'
    assert type(model) is distilled_class(ImageClassifier)
    assert type(toy_distilled()) is type(model)
    assert model.student_class is ImageClassifier
    # Nothing of prediction, or of what hooks use, is another method; the sum of
    # the terms is the host's, and one of the logged values has another name.
    methods = {name for name, value in vars(Distilled).items() if callable(value)}
    assert {name for name in methods if hasattr(ImageClassifier, name)} == {
        'loss',
        'parse_losses',
        'init_weights',
        '__reduce_ex__',
    }


def test_parts_are_where_hooks_look_for_them():
    model, upstream = toy_distilled(), plain()
    names = [name for name, _ in upstream.named_children()]
    assert [name for name, _ in model.named_children()] == [*names, 'distiller']
    for name in names:
        assert type(getattr(model, name)) is type(getattr(upstream, name))


def test_state_dict_has_the_students_own_keys_and_the_distillers():
    keys = list(toy_distilled().state_dict())
    own = [key for key in keys if not key.startswith('distiller.')]
    assert own == list(plain().state_dict())
    assert len(keys) > len(own)


def test_batches_are_preprocessed_by_the_students_preprocessor():
    """mmpretrain's runner hands the top-level one on; the student's own wins."""
    top = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    cfg = dict(type='frskd_mm.Distilled', distiller=toy_frskd_cfg())
    model = MODELS.build(dict(**cfg, student=toy_student_cfg(), data_preprocessor=top))
    assert model.data_preprocessor.mean.flatten().tolist() == top['mean']
    own = toy_student_cfg()
    own['data_preprocessor'] = dict(mean=[7.0, 7.0, 7.0], std=[1.0, 1.0, 1.0])
    model = MODELS.build(dict(**cfg, student=own, data_preprocessor=top))
    assert model.data_preprocessor.mean.flatten().tolist() == [7.0, 7.0, 7.0]


def copy_by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def copy_by_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize('copy', [deepcopy, copy_by_pickle, copy_by_torch])
def test_copies_are_equal_and_independent(copy):
    model, batch = trained(), toy_batch()
    twin = copy(model)
    assert type(twin) is type(model)
    assert torch.equal(scores(twin, batch), scores(model, batch))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    twin.train()
    losses = twin(**batch, mode='loss')
    assert 'loss_at' in losses
    with torch.no_grad():
        for param in twin.parameters():
            param.add_(1.0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name]), name
    # The copy checks its own checkpoints.
    weights = student_keys(twin.state_dict())
    weights.pop('backbone.conv1.weight')
    with pytest.raises(ValueError, match='backbone.conv1.weight'):
        twin.load_state_dict(weights, strict=False)


def test_emas_average_follows_every_part():
    model = trained()
    ema = ExponentialMovingAverage(model, momentum=0.25, update_buffers=True)
    name = 'distiller.self_teacher.twin.head.fc.weight'
    start = model.state_dict()['head.fc.weight'].clone()
    start_twin = model.state_dict()[name].clone()
    ema.update_parameters(model)
    with torch.no_grad():
        model.head.fc.weight.add_(1.0)
        model.state_dict()[name].add_(2.0)
    ema.update_parameters(model)
    averaged = ema.module.state_dict()
    torch.testing.assert_close(averaged['head.fc.weight'], start + 0.25)
    torch.testing.assert_close(averaged[name], start_twin + 0.5)
    assert scores(ema.module, toy_batch()).shape == (4, 10)
    # Its state, keys with the prefix 'module.', goes through the check as well.
    ema.load_state_dict(ema.state_dict())
    weights = {k: v for k, v in ema.state_dict().items() if 'distiller' not in k}
    weights['module.backbone.conv1.weight'] = torch.zeros(1)
    with pytest.raises(ValueError, match=r'backbone.conv1.weight \(1,\) instead of'):
        ema.load_state_dict(weights, strict=False)


def test_paramwise_cfg_reaches_the_students_backbone():
    model = toy_distilled()
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=0.1),
            paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.01)}),
        ),
    )
    rates = {
        id(param): group['lr']
        for group in wrapper.optimizer.param_groups
        for param in group['params']
    }
    for name, param in model.named_parameters():
        expected = 0.001 if name.startswith('backbone.') else 0.1
        assert rates[id(param)] == pytest.approx(expected), name


def test_stripped_checkpoint_loads_strictly_and_predicts_bit_identically():
    model, batch = trained(), toy_batch()
    upstream = plain()
    upstream.load_state_dict(student_keys(model.state_dict()), strict=True)
    assert torch.equal(scores(upstream, batch), scores(model, batch))
    batch['inputs'] = 3 * batch['inputs']
    upstream.train()
    model.train()
    for a, b in zip(
        upstream.extract_feat(batch['inputs'], stage='backbone'),
        model.extract_feat(batch['inputs'], stage='backbone'),
    ):
        assert torch.equal(a, b)


def test_unexported_checkpoint_loads_into_the_plain_model():
    model, batch = trained(), toy_batch()
    upstream = plain()
    load_state_dict(upstream, model.state_dict(), strict=False)
    assert torch.equal(scores(upstream, batch), scores(model, batch))


def test_distilled_checkpoint_loads_strictly_and_goes_on():
    model, other = trained(), toy_distilled()
    other.load_state_dict(model.state_dict(), strict=True)
    batch = toy_batch()
    assert torch.equal(scores(other, batch), scores(model, batch))
    with other.as_self_teacher():
        mine = scores(other, batch)
    with model.as_self_teacher():
        assert torch.equal(mine, scores(model, batch))


def test_plain_weights_load_with_a_report(log):
    upstream, model = plain(), toy_distilled()
    before = {k: v.clone() for k, v in model.distiller.state_dict().items()}
    load_state_dict(model, upstream.state_dict(), strict=False)
    batch, count = toy_batch(), len(upstream.state_dict())
    assert torch.equal(scores(model, batch), scores(upstream, batch))
    for name, value in model.distiller.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert (
        f'Plain weights: {count} of {count} tensors of the student loaded; none left '
        'over. The distiller keeps its initialisation.'
    ) in log.text


def test_pretrained_init_cfg_of_the_student_loads_plain_weights(tmp_path, log):
    upstream, path = plain(), tmp_path / 'plain.pth'
    torch.save(dict(state_dict=upstream.state_dict()), path)
    student = toy_student_cfg()
    student['init_cfg'] = dict(type='Pretrained', checkpoint=str(path))
    model = distilled(student)
    for name, value in upstream.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert 'tensors of the student loaded' in log.text


def test_pretrained_init_cfg_of_another_backbone_is_refused(tmp_path):
    """MMEngine only warns, and the training begins from scratch."""
    path = tmp_path / 'other.pth'
    student = toy_student_cfg()
    student['backbone']['base_channels'] = 16
    student['head']['in_channels'] = 128
    torch.save(plain(**student).backbone.state_dict(), path)
    student = toy_student_cfg()
    student['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=str(path))
    with pytest.raises(ValueError, match='not those of a ResNet_CIFAR of this form'):
        distilled(student)


def test_pretrained_init_cfg_may_leave_a_part_over(tmp_path):
    upstream, path = plain(), tmp_path / 'own.pth'
    weights = upstream.backbone.state_dict()
    weights['fc.weight'] = torch.zeros(10, 64)
    del weights['layer4.1.bn2.bias']
    torch.save(weights, path)
    student = toy_student_cfg()
    student['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=str(path))
    model = distilled(student)
    assert torch.equal(model.backbone.conv1.weight, upstream.backbone.conv1.weight)


def test_weights_that_the_backbone_converts_fit():
    """ViT resizes the position embedding of another image size as it loads."""

    def vit(img_size):
        return dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(
                type='VisionTransformer',
                arch=dict(
                    embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=8
                ),
                img_size=img_size,
                patch_size=8,
            ),
            head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=8),
        )

    upstream, model = MODELS.build(vit(64)), distilled(vit(32))
    upstream.init_weights()
    load_state_dict(model, upstream.state_dict(), strict=False)
    for name, value in upstream.backbone.layers.state_dict().items():
        assert torch.equal(model.backbone.layers.state_dict()[name], value), name


def test_head_of_other_classes_may_differ_and_is_reported(log):
    head = dict(type='LinearClsHead', num_classes=7, in_channels=64)
    upstream, model = plain(head=head), toy_distilled()
    kept = model.head.fc.weight.clone()
    load_state_dict(model, upstream.state_dict(), strict=False)
    count = len(model.state_dict()) - len(model.distiller.state_dict())
    assert f'Plain weights: {count - 2} of {count} tensors' in log.text
    assert 'head.fc.weight (7, 64) instead of (10, 64)' in log.text
    assert torch.equal(model.head.fc.weight, kept)
    assert torch.equal(model.backbone.conv1.weight, upstream.backbone.conv1.weight)


@pytest.mark.parametrize('checkpoint', ['plain', 'distilled'])
@pytest.mark.parametrize(
    ('change', 'in_channels', 'names'),
    [
        (dict(depth=34), 64, r'unknown \(backbone.layer1.2.bn1.bias, .* and \d+ more'),
        (dict(base_channels=16), 128, r'layer1.0.bn1.bias \(16,\) instead of \(8,\)'),
    ],
    ids=['resnet34', 'wider'],
)
def test_another_architecture_is_refused_with_names(
    change, in_channels, names, checkpoint
):
    student = toy_student_cfg()
    student['backbone'].update(change)
    student['head']['in_channels'] = in_channels
    other = plain(**student) if checkpoint == 'plain' else distilled(student)
    model = toy_distilled()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=names) as error:
        load_state_dict(model, other.state_dict(), strict=False)
    assert 'does not fit the backbone of ImageClassifier' in str(error.value)
    assert 'change student.backbone' in str(error.value)
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_a_shallower_backbone_is_refused_for_what_is_missing():
    student = toy_student_cfg()
    student['backbone'].update(depth=34)
    model = distilled(student)
    with pytest.raises(ValueError, match=r'missing \(backbone.layer1.2'):
        load_state_dict(model, plain().state_dict(), strict=False)


def test_as_self_teacher_predicts_with_the_self_teacher():
    model, batch = trained(), toy_batch()
    student = scores(model, batch)
    with model.as_self_teacher():
        teacher = scores(model, batch)
    assert torch.equal(scores(model, batch), student)
    self_teacher = model.distiller.self_teacher
    with torch.no_grad():
        feats = model.extract_feat(batch['inputs'], stage='backbone')
        logits = self_teacher.twin.head(
            self_teacher.twin.neck(self_teacher.neck(feats))
        )
    torch.testing.assert_close(teacher, logits.softmax(dim=1))
    assert not torch.equal(teacher, student)


def test_as_self_teacher_ends_with_an_error_too():
    model = toy_distilled().eval()
    with pytest.raises(TypeError), model.as_self_teacher():
        model(None, [], mode='predict')
    assert 'predict' not in vars(model)


def test_as_self_teacher_needs_one(monkeypatch):
    model = toy_distilled()
    monkeypatch.delattr(type(model.distiller), 'predict')
    with pytest.raises(TypeError, match='FRSKD has no self-teacher'):
        model.as_self_teacher().__enter__()


def test_a_distillers_construction_takes_no_random_numbers():
    torch.manual_seed(8)
    MODELS.build(toy_student_cfg())
    expected = torch.rand(3)
    torch.manual_seed(8)
    MODELS.build(
        dict(
            type='frskd_mm.Distilled',
            student=toy_student_cfg(),
            distiller=toy_frskd_cfg(),
        )
    )
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_inputs_that_are_not_finite_are_named(value):
    model, batch = toy_distilled(), toy_batch()
    batch['inputs'][2, 0, 3, 4] = value
    batch['data_samples'][2].set_metainfo(dict(img_path='train/0002.png'))
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r'image\(s\) \[2\] .*\(train/0002.png\)'):
        model(**batch, mode='loss')
    for name, value in model.state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_a_foreign_forward_on_the_instance_has_each_batch_checked_once(monkeypatch):
    """Profilers and activation checkpointing set one that is not compiled."""
    model = toy_distilled()
    own, checked = model.forward, []
    monkeypatch.setattr(
        model.distiller.task, 'check_labels', lambda *args: checked.append(args)
    )
    model.forward = lambda *args, **kwargs: own(*args, **kwargs)
    for _ in range(3):
        model(**toy_batch(), mode='loss')
    assert len(checked) == 3
    del model.forward
    for _ in range(3):  # images that may take the place of the last ones in memory
        model.loss(**toy_batch())
        model(**toy_batch(), mode='loss')
    assert len(checked) == 9


@pytest.mark.parametrize('label', [-1, 10])
def test_labels_out_of_range_are_named(label):
    model, batch = toy_distilled(), toy_batch()
    batch['data_samples'][1].set_gt_label(label)
    batch['data_samples'][1].set_metainfo(dict(img_path='train/0001.png'))
    with pytest.raises(
        ValueError, match=rf'\[{label}\] of sample train/0001.png .*num_classes=10'
    ):
        model(**batch, mode='loss')


def test_a_distilled_student_is_refused():
    inner = dict(
        type='frskd_mm.Distilled', student=toy_student_cfg(), distiller=toy_frskd_cfg()
    )
    with pytest.raises(TypeError, match='distilled already'):
        MODELS.build({**inner, 'student': inner})


def test_a_student_of_no_host_is_refused():
    student = dict(type='frskd_mm.WideResNet')
    with pytest.raises(TypeError, match='WideResNet is not a model of'):
        distilled(student)


@pytest.mark.parametrize(
    'distiller',
    [
        toy_frskd_cfg(),
        dict(type='frskd_mm.TfKDReg', alpha=0.5),
        dict(type='frskd_mm.SLA'),
    ],
    ids=lambda distiller: distiller['type'],
)
def test_the_plain_students_loss_is_logged_unscaled(distiller):
    """Learning curves of methods that scale the student's terms stay comparable."""
    plain = MODELS.build(toy_student_cfg())
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=toy_student_cfg(), distiller=distiller)
    )
    model.init_weights()
    model.eval()  # batch statistics would differ between one and four rotations
    plain.load_state_dict(model.state_dict(), strict=False)
    batch = toy_batch()
    expected = plain.eval()(**batch, mode='loss')['loss']
    losses = model(**batch, mode='loss')
    torch.testing.assert_close(losses['student.task'], expected)
    assert not losses['student.task'].requires_grad
    total, log = model.parse_losses(losses)
    assert log['student.task_loss'] == losses['student.task']
    optimised = [value for name, value in losses.items() if 'loss' in name]
    torch.testing.assert_close(total, sum(optimised))


def test_a_distiller_inherited_from_this_package_builds_the_hosts_twin(tmp_path):
    """As in a config of another project, read by MMEngine alone."""
    path = tmp_path / 'child.py'
    path.write_text(
        f"""
_base_ = 'frskd_mm::_base_/frskd_cls.py'
model = dict(
    type='frskd_mm.Distilled', student={toy_student_cfg()}, distiller=_base_.distiller
)
"""
    )
    cfg = Config.fromfile(path)
    assert cfg.model.distiller._scope_ == 'frskd_mm'
    model = MODELS.build(cfg.model)
    assert isinstance(model.distiller.self_teacher.twin, ImageClassifier)
    assert cfg.model.distiller._scope_ == 'frskd_mm'  # left as it was


def swin(kind, **arch):
    arch = dict(embed_dims=16, depths=[1] * 4, num_heads=[1, 1, 2, 2], **arch)
    backbone = dict(
        type=kind, arch=arch, img_size=64, window_size=4, pad_small_map=True
    )
    head = dict(type='LinearClsHead', num_classes=10, in_channels=128)
    return dict(toy_student_cfg(), backbone=backbone, head=head)


def test_swin_v2_loads_its_own_weights_without_the_tables_it_computes():
    student = swin('SwinTransformerV2', extra_norm_every_n_blocks=0)
    model, other = distilled(student), distilled(student)
    load_state_dict(other, dict(model.state_dict()))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_names_of_earlier_versions_are_converted_where_modules_load():
    student = swin('SwinTransformer')
    weights = {
        name.replace('backbone.norm3.', 'backbone.norm.'): value
        for name, value in plain(**student).state_dict().items()
    }
    norm = weights['backbone.norm.weight']
    weights['backbone.stages.0.blocks.0.attn.attn_mask'] = torch.zeros(4, 16, 16)
    model = distilled(student)
    load_state_dict(model, weights)
    assert torch.equal(model.backbone.norm3.weight, norm)


def test_a_token_that_pretraining_leaves_is_no_sign_of_another_model():
    weights = plain().state_dict()
    weights['backbone.mask_token'] = torch.zeros(1, 1, 8)
    model = toy_distilled()
    load_state_dict(model, weights)
    assert torch.equal(model.backbone.conv1.weight, weights['backbone.conv1.weight'])


@pytest.mark.parametrize('part', ['norms', 'head'])
def test_parts_of_the_model_itself_can_be_loaded(part):
    """As mmdet's SyncNormHook loads the norms alone in a run of several processes."""
    model = toy_distilled()
    own = model.state_dict()
    chosen = {
        name: value + 1
        for name, value in own.items()
        if not name.startswith('distiller.')
        and (name.startswith('head.') if part == 'head' else value.dim() <= 1)
    }
    model.load_state_dict(chosen, strict=False)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in chosen.items())
    weight = 'backbone.layer1.0.conv1.weight'
    with pytest.raises(ValueError, match='does not fit the backbone .* missing'):
        model.load_state_dict({weight: own[weight]}, strict=False)
