"""Distillation from a pretrained teacher."""

import pickle
from copy import deepcopy

import pytest
import reference
import torch
from contracts import Case, DistillerContract, trained_parts
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from toys import terms_of, toy_batch, toy_frskd_cfg, toy_model, toy_student_cfg

from frskd_mm.models.distilled import Distilled, distill
from frskd_mm.models.distillers import FRSKD, PretrainedTeacher
from frskd_mm.utils.recorder import Recorder

FEATURE_TERMS = {
    'loss_at': dict(type='frskd_mm.AttentionTransferLoss'),
    'loss_fitnet': dict(type='frskd_mm.FitNetLoss'),
    'loss_overhaul': dict(type='frskd_mm.OverhaulLoss', margin='batch'),
}


def teacher_cfg(num_classes=10, out_indices=(0, 1, 2, 3)):
    """Twice as wide as the student."""
    cfg = toy_student_cfg(num_classes)
    cfg['backbone'].update(base_channels=16, out_indices=out_indices)
    cfg['head']['in_channels'] = 128
    return cfg


@pytest.fixture
def checkpoint(tmp_path):
    """Weights of a teacher that has seen some images, as the runner saves them."""
    teacher = MODELS.build(teacher_cfg())
    for _ in range(3):
        teacher(**toy_batch(), mode='loss')
    path = tmp_path / 'teacher.pth'
    torch.save(dict(meta={}, state_dict=teacher.state_dict()), path)
    return str(path)


def distiller_cfg(checkpoint, **kwargs):
    return dict(
        type='frskd_mm.PretrainedTeacher',
        **{
            'teacher': teacher_cfg(),
            'checkpoint': checkpoint,
            'soft_label': dict(
                type='frskd_mm.SoftLabelLoss', temperature=4.0, loss_weight=0.9
            ),
            **kwargs,
        },
    )


def loaded_teacher(checkpoint):
    teacher = MODELS.build(teacher_cfg())
    teacher.load_state_dict(torch.load(checkpoint)['state_dict'])
    return teacher.eval()


class TestPretrainedTeacher(DistillerContract):
    """The data of a case: the name of the feature term, if any."""

    component = PretrainedTeacher
    cases = {
        'logits': Case(dict(), None),
        'less': Case(
            dict(
                student_loss_weight=0.1,
                feature_loss=dict(
                    type='frskd_mm.AttentionTransferLoss', loss_weight=70.0
                ),
            ),
            'loss_at',
        ),
    }
    main = ['logits', 'less']
    parts = {'distiller.feature_loss.': 'adapters'}
    wrong_settings = [
        (dict(teacher=None), 'distiller.teacher=.*distiller.checkpoint='),
        (dict(checkpoint=None), 'distiller.teacher=.*distiller.checkpoint='),
    ]
    # Its teacher is a classifier here; dense ones have a test file of their own.
    test_students_for_dense_prediction_are_taken_or_refused = None

    @pytest.fixture(autouse=True)
    def _checkpoint(self, checkpoint):
        self.checkpoint = checkpoint

    def settings(self, case):
        return distiller_cfg(**{'checkpoint': self.checkpoint, **case.settings})

    def expected(self, model, images, data_samples):
        teacher = loaded_teacher(self.checkpoint).to(images)
        labels = [sample.gt_label.item() for sample in data_samples]
        feats, teacher_feats = (one.backbone(images) for one in (model, teacher))
        z_s, z_t = (
            reference.classify(maps[-1], one.head.fc.weight, one.head.fc.bias)
            for one, maps in ((model, feats), (teacher, teacher_feats))
        )
        distiller = model.distiller
        weight = distiller.student_loss_weight
        expected = {
            'student.loss': weight * reference.cross_entropy(z_s, labels),
            'loss_kd': 0.9 * reference.soft_label(z_s, z_t, 4.0),
        }
        if distiller.feature_loss is not None:
            expected['loss_at'] = 70.0 * reference.attention_transfer(
                feats, teacher_feats, 'mean'
            )
        return expected

    def reaches(self, case):
        student = {'backbone', 'head'}
        feature = {case.data: {'backbone'}} if case.data else {}
        return {'student.loss': student, 'loss_kd': student, **feature}


RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0])


def distilled_preprocessing(student, teacher):
    cfg = toy_student_cfg()
    cfg['data_preprocessor'] = dict(type='mmpretrain.ClsDataPreprocessor', **student)
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=cfg, distiller=teacher)
    )
    model.init_weights()
    return model


@pytest.mark.parametrize('form', ['dict', 'file', 'distilled file'])
def test_a_teacher_sees_what_its_own_preprocessor_would_give(
    form, checkpoint, tmp_path
):
    """A caffe-style teacher fell to chance on the student's images."""
    caffe, teacher = dict(type='mmpretrain.ClsDataPreprocessor', **CAFFE), teacher_cfg()
    if form == 'dict':
        teacher['data_preprocessor'] = caffe
    else:  # mmpretrain's configs have it beside the model
        if form == 'distilled file':
            teacher = dict(
                type='frskd_mm.Distilled', student=teacher, distiller=toy_frskd_cfg()
            )
        path = tmp_path / 'teacher.py'
        path.write_text(f'model = {teacher}\ndata_preprocessor = {caffe}\n')
        teacher = str(path)
    model = distilled_preprocessing(RGB, distiller_cfg(checkpoint, teacher=teacher))
    batch = toy_batch()
    batch['inputs'] = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    given = model.data_preprocessor(deepcopy(batch), False)
    kd = model(**given, mode='loss')['loss_kd']

    alone = loaded_teacher(checkpoint)
    own = MODELS.build(caffe)(deepcopy(batch), False)['inputs']
    logits = model(given['inputs'], mode='tensor')
    expected = 0.9 * reference.soft_label(logits, alone(own, mode='tensor'), 4.0)
    torch.testing.assert_close(kd, expected, rtol=1e-4, atol=1e-6)
    unlike = 0.9 * reference.soft_label(
        logits, alone(given['inputs'], mode='tensor'), 4.0
    )
    assert not torch.allclose(kd, unlike, rtol=0.1)
    assert not any('renormalize' in name for name in model.state_dict())


def test_a_self_teacher_sees_what_its_students_preprocessor_would_give(checkpoint):
    inner = toy_student_cfg()
    inner['data_preprocessor'] = dict(mean=[0.0] * 3, std=[1.0] * 3, to_rgb=True)
    teacher = dict(type='frskd_mm.Distilled', student=inner, distiller=toy_frskd_cfg())
    student = toy_student_cfg()
    student['data_preprocessor'] = dict(mean=[127.0] * 3, std=[128.0] * 3)
    cfg = distiller_cfg(checkpoint, teacher=teacher, self_teacher=True)
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=student, distiller=cfg)
    )
    assert model.distiller.renormalize is not None


def test_a_distilled_teacher_may_be_configured_in_python(checkpoint):
    teacher = dict(type=distill, student=teacher_cfg(), distiller=toy_frskd_cfg())
    model = toy_model(distiller_cfg(checkpoint, teacher=teacher))
    assert not isinstance(model.distiller.teacher, Distilled)
    self_taught = distiller_cfg(
        checkpoint,
        teacher=dict(
            type=distill,
            student=teacher_cfg(),
            distiller={**toy_frskd_cfg(), 'type': FRSKD},
        ),
        self_teacher=True,
    )
    model = toy_model(self_taught)
    assert isinstance(model.distiller.teacher, Distilled)


def test_a_teacher_without_a_preprocessor_sees_the_students_images(checkpoint):
    same = {**teacher_cfg(), 'data_preprocessor': dict(RGB)}
    for teacher in (teacher_cfg(), same):
        cfg = distiller_cfg(checkpoint, teacher=teacher)
        assert distilled_preprocessing(RGB, cfg).distiller.renormalize is None


@pytest.mark.parametrize('term', ['loss_fitnet', 'loss_overhaul'])
def test_adapters_are_trained_with_the_backbone(term, checkpoint):
    model = toy_model(distiller_cfg(checkpoint, feature_loss=FEATURE_TERMS[term]))
    losses = model(**toy_batch(), mode='loss')
    parts = TestPretrainedTeacher.parts
    assert trained_parts(model, losses[term], parts) == {'backbone', 'adapters'}


def test_fitnet_and_overhaul_read_the_teachers_maps(checkpoint):
    batch, teacher = toy_batch(), loaded_teacher(checkpoint)
    model = toy_model(
        distiller_cfg(checkpoint, feature_loss=FEATURE_TERMS['loss_fitnet'])
    )
    value = model(**batch, mode='loss')['loss_fitnet']
    feats, targets = (one.backbone(batch['inputs']) for one in (model, teacher))
    expected = sum(
        100 * ((adapt(feat) - target) ** 2).mean()
        for adapt, feat, target in zip(
            model.distiller.feature_loss.adapters, feats, targets
        )
    )
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)

    model = toy_model(
        distiller_cfg(checkpoint, feature_loss=FEATURE_TERMS['loss_overhaul'])
    )
    seen = {}
    model.distiller.feature_loss.register_forward_pre_hook(
        lambda module, args: seen.update(student=args[0], teacher=args[1])
    )
    model(**batch, mode='loss')
    for feats, wanted in (
        (seen['student'], model.backbone(batch['inputs'])),
        (seen['teacher'], targets),
    ):
        for preact, feat in zip(feats, wanted):
            assert preact.min() < 0
            torch.testing.assert_close(preact.relu(), feat)


def test_the_teacher_is_frozen_in_eval_mode_and_not_saved(checkpoint):
    model = toy_model(distiller_cfg(checkpoint))
    teacher = model.distiller.teacher
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        total, _ = model.parse_losses(model(**toy_batch(), mode='loss'))
        total.backward()
        optimizer.step()
    assert not any(module.training for module in teacher.modules())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(param.grad is None for param in teacher.parameters())

    own = {id(param) for param in teacher.parameters()}
    assert not own & {id(param) for param in model.parameters()}
    assert not any(key.startswith('distiller.') for key in model.state_dict())


def test_the_teacher_moves_with_the_model(checkpoint):
    model = toy_model(distiller_cfg(checkpoint))
    model.double()
    assert all(
        param.dtype == torch.float64 for param in model.distiller.teacher.parameters()
    )
    model.to('meta')
    assert all(param.is_meta for param in model.distiller.teacher.parameters())


def test_copies_share_the_teacher(checkpoint):
    model = toy_model(distiller_cfg(checkpoint))
    for copy in (deepcopy(model), ExponentialMovingAverage(model).module):
        assert copy.distiller.teacher is model.distiller.teacher
        assert copy.backbone is not model.backbone
    again = pickle.loads(pickle.dumps(model))
    batch = toy_batch()
    for name, value in model(**batch, mode='loss').items():
        torch.testing.assert_close(again(**batch, mode='loss')[name], value)


@pytest.mark.parametrize('prefix', ['', 'module.'])  # the latter: of DDPStrategy
def test_teacher_by_config_file_and_distilled_checkpoint(tmp_path, checkpoint, prefix):
    """The student of a distilled model can be the teacher."""
    weights = torch.load(checkpoint)['state_dict']
    weights['distiller.some.weight'] = torch.zeros(1)
    path = tmp_path / 'distilled.pth'
    torch.save(dict(state_dict={prefix + k: v for k, v in weights.items()}), path)
    config = tmp_path / 'teacher.py'
    config.write_text(
        f'model = dict(type="frskd_mm.Distilled", student={teacher_cfg()!r}, '
        f'distiller={toy_frskd_cfg()!r})'
    )
    model = toy_model(distiller_cfg(str(path), teacher=str(config)))
    expected = loaded_teacher(checkpoint).state_dict()
    for name, value in model.distiller.teacher.state_dict().items():
        assert torch.equal(value, expected[name])


def test_while_the_schedule_is_zero_only_the_labels_teach(checkpoint):
    model = toy_model(
        distiller_cfg(
            checkpoint,
            feature_loss=FEATURE_TERMS['loss_at'],
            weight_schedule=dict(begin=2),
        )
    )
    runs = []
    for _ in range(3):
        with Recorder({'runs': (model.distiller.teacher, 'extract_feat')}) as record:
            terms = terms_of(model(**toy_batch(), mode='loss'))
        assert set(terms) == {'student.loss'}
        runs.append(len(record.outputs['runs']))
    # In the first step the terms are tried; a teacher that nothing uses costs nothing.
    assert runs == [1, 0, 0]


def test_building_needs_no_checkpoint_but_training_does(tmp_path):
    cfg = dict(
        type='frskd_mm.Distilled',
        student=toy_student_cfg(),
        distiller=distiller_cfg(str(tmp_path / 'missing.pth')),
    )
    model = MODELS.build(cfg)
    with pytest.raises(RuntimeError, match='init_weights'):
        model(**toy_batch(), mode='loss')
    with pytest.raises(FileNotFoundError, match='missing.pth. Train the teacher'):
        model.init_weights()


@pytest.mark.parametrize('missing', ['teacher', 'checkpoint'])
def test_no_teacher_or_checkpoint_named(missing, checkpoint):
    cfg = distiller_cfg(checkpoint)
    cfg.pop(missing)
    with pytest.raises(ValueError, match='distiller.teacher=.*distiller.checkpoint='):
        toy_model(cfg)


def test_checkpoint_of_another_architecture(tmp_path):
    path = tmp_path / 'other.pth'
    torch.save(dict(state_dict=MODELS.build(toy_student_cfg()).state_dict()), path)
    with pytest.raises(ValueError, match='does not fit the config of the teacher'):
        toy_model(distiller_cfg(str(path)))


def test_classes_differ(checkpoint):
    with pytest.raises(ValueError, match='student has 10 classes and the teacher 7'):
        toy_model(distiller_cfg(checkpoint, teacher=teacher_cfg(num_classes=7)))


def test_levels_do_not_pair_up(checkpoint):
    cfg = distiller_cfg(checkpoint, teacher=teacher_cfg(out_indices=(2, 3)))
    toy_model(cfg)  # logits alone need no pairs
    cfg['feature_loss'] = FEATURE_TERMS['loss_at']
    with pytest.raises(ValueError, match='Set stages and teacher_stages of'):
        toy_model(cfg)


def test_overhaul_needs_the_batch_margin(checkpoint):
    cfg = distiller_cfg(checkpoint, feature_loss=dict(type='frskd_mm.OverhaulLoss'))
    with pytest.raises(ValueError, match="margin='batch'"):
        toy_model(cfg)
