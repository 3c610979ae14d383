# Zipf's LS, ResNet-18, CIFAR-100, on the schedule of the plain student.
_base_ = ['../resnet18_cifar100.py', '../_base_/methods/zipf-ls_cls.py']
student = _base_.model
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=student,
    distiller=_base_.distiller,
)
