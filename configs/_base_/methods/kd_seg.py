# Distillation from a pretrained segmentor. No settings were published: alpha and
# the temperature are those of FRSKD, and the task loss counts in full.
_base_ = './kd_cls.py'
distiller = dict(
    student_loss_weight=1.0,
    soft_label=dict(
        _delete_=True,
        type='frskd_mm.PixelSoftLabelLoss',
        temperature=1.0,
        loss_weight=1.0,
    ),
)
