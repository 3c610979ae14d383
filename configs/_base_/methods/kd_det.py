# Distillation from a pretrained detector. No settings were published: the soft
# labels are those of FRSKD, and the task losses count in full.
_base_ = './kd_cls.py'
distiller = dict(
    student_loss_weight=1.0,
    soft_label=dict(
        _delete_=True,
        type='frskd_mm.DetSoftLabelLoss',
        temperature=1.0,
        loss_weight=1.0,
        foreground='confidence',
        bbox_weight=0.0,
    ),
)
