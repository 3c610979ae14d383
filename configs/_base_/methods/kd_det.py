# Distillation from a pretrained detector. No settings were published: the soft
# labels are those of FRSKD, and the task losses count in full. The experiment names
# teacher and checkpoint.
_base_ = '../frskd_det.py'
distiller = dict(
    _delete_=True,
    type='frskd_mm.PretrainedTeacher',
    soft_label=_base_.distiller.soft_label,
)
