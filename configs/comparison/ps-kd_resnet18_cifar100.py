# PS-KD, ResNet-18, CIFAR-100, on the schedule of the plain student.
_base_ = ['../resnet18_cifar100.py', '../_base_/methods/ps-kd_cls.py']
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=_base_.distiller,
)
