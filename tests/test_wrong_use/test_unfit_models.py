"""Models that cannot be their own teacher say so when they are built."""

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from toys import toy_frskd_cfg, toy_student_cfg

from frskd_mm.engine.wrap import wrap

BACKBONE = toy_student_cfg()['backbone']


def moco():
    return dict(
        type='MoCo',
        backbone=BACKBONE,
        neck=dict(type='MoCoV2Neck', in_channels=64, hid_channels=8, out_channels=8),
        head=dict(
            type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'), temperature=0.2
        ),
        queue_len=16,
        feat_dim=8,
    )


def simclr():
    return dict(
        type='SimCLR',
        backbone=BACKBONE,
        neck=dict(type='NonLinearNeck', in_channels=64, hid_channels=8, out_channels=8),
        head=dict(
            type='ContrastiveHead', loss=dict(type='CrossEntropyLoss'), temperature=0.1
        ),
    )


def mae():
    return dict(
        type='MAE',
        backbone=dict(type='MAEViT', arch='deit-t', img_size=32, patch_size=16),
        neck=dict(
            type='MAEPretrainDecoder',
            num_patches=4,
            patch_size=16,
            embed_dim=192,
            decoder_embed_dim=16,
            decoder_depth=1,
            decoder_num_heads=2,
        ),
        head=dict(
            type='MAEPretrainHead',
            patch_size=16,
            loss=dict(type='PixelReconstructionLoss', criterion='L2'),
        ),
    )


def retriever():
    return dict(
        type='ImageToImageRetriever',
        image_encoder=[BACKBONE, dict(type='GlobalAveragePooling')],
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
        prototype='prototypes.pth',
    )


@pytest.mark.parametrize(
    ('student', 'reason'),
    [
        (moco, 'MoCo is pre-trained without labels.*fine-tuned'),
        (simclr, 'SimCLR is pre-trained without labels.*fine-tuned'),
        (mae, 'MAE is pre-trained without labels.*fine-tuned'),
        (retriever, 'ImageToImageRetriever has no backbone of its own'),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
@pytest.mark.parametrize('how', ['built', 'wrapped'])
def test_models_of_mmpretrain(student, reason, how):
    def make():
        if how == 'wrapped':
            return wrap(Config(dict(model=student(), default_scope='mmpretrain')))
        cfg = dict(student=student(), distiller=toy_frskd_cfg())
        return MODELS.build(dict(type='frskd_mm.Distilled', **cfg))

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        with pytest.raises(TypeError, match=reason):
            make()


class TestDetectors:
    @pytest.fixture(autouse=True)
    def _toys(self):
        pytest.importorskip('mmdet')
        import sys
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).parents[1] / 'test_detection'))
        yield
        sys.path.pop(0)

    def refused(self, student):
        from det_toys import frskd_cfg

        cfg = dict(type='frskd_mm.Distilled', student=student, distiller=frskd_cfg())
        with DefaultScope.overwrite_default_scope('mmdet'):
            with pytest.raises(TypeError) as error:
                MODELS.build(cfg)
        return str(error.value)

    def test_semi_supervised_ones(self):
        from det_toys import student_cfg

        detector = student_cfg('faster_rcnn')
        student = dict(
            type='mmdet.SoftTeacher',
            detector=detector,
            data_preprocessor=dict(
                type='mmdet.MultiBranchDataPreprocessor',
                data_preprocessor=dict(type='mmdet.DetDataPreprocessor'),
            ),
            semi_train_cfg=dict(freeze_teacher=True),
            semi_test_cfg=dict(predict_on='teacher'),
        )
        message = self.refused(student)
        assert 'SoftTeacher has no backbone of its own' in message
        assert 'detector inside' in message or 'model inside' in message

    def test_ones_with_a_teacher(self):
        from det_toys import student_cfg

        student = student_cfg('gfl')
        student.type = 'mmdet.KnowledgeDistillationSingleStageDetector'
        student.bbox_head.type = 'LDHead'
        student.bbox_head.loss_ld = dict(
            type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10
        )
        student.teacher_config = Config(dict(model=student_cfg('gfl')))
        assert 'distilled already, by a teacher' in self.refused(student)


def test_depth_estimation_distils_features_alone():
    pytest.importorskip('mmseg')
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1] / 'test_segmentation'))
    from seg_toys import student_cfg

    student = student_cfg(type='mmseg.DepthEstimator')
    student['backbone'].update(stem_channels=32, base_channels=32)
    student['decode_head'] = dict(
        type='VPDDepthHead',
        in_channels=[32, 64, 128, 256],
        max_depth=10.0,
        fmap_border=(1, 1),
    )
    student.pop('auxiliary_head')
    cfg = dict(type='frskd_mm.Distilled', student=student)
    sys.path.pop(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        with pytest.raises(TypeError, match='estimates depth.*loss_weight=0'):
            MODELS.build(dict(cfg, distiller=toy_frskd_cfg()))
        MODELS.build(dict(cfg, distiller=toy_frskd_cfg(alpha=0.0)))
