# FRSKD+SLA, ResNet-18, CIFAR-100: the recipe of the paper.
_base_ = ['../resnet18_cifar100.py', '../_base_/methods/frskd-sla_cls.py']
student = _base_.model
student.backbone.out_indices = (0, 1, 2, 3)
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=student,
    distiller=_base_.distiller,
)
