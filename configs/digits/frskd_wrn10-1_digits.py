# FRSKD, WRN-10-1, on the embedded digits.
_base_ = ['./wrn10-1_digits.py', '../_base_/frskd_cls.py']
student = _base_.model
student.backbone.out_indices = (0, 1, 2)
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=student,
    distiller=_base_.distiller,
)
