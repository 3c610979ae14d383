# USKD, WRN-16-2, CIFAR-100, on the schedule of the plain student.
_base_ = ['../wrn16-2_cifar100.py', '../_base_/methods/uskd_cls.py']
student = _base_.model
student.backbone.out_indices = (0, 1, 2)
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=student,
    distiller=_base_.distiller,
)
