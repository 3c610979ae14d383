# FRSKD, WRN-16-2, CIFAR-100: the recipe of the paper.
_base_ = ['./wrn16-2_1xb128_cifar100.py', '../_base_/frskd_cls.py']
student = _base_.model
student.backbone.out_indices = (0, 1, 2)
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=student,
    distiller=_base_.distiller,
)
