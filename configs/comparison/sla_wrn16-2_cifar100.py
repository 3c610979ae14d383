# SLA-SD, WRN-16-2, CIFAR-100, on the schedule of the plain student.
_base_ = ['../wrn16-2_cifar100.py', '../_base_/methods/sla_cls.py']
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=_base_.distiller,
)
