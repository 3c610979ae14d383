# Soft labels of a pretrained ResNet-34 for ResNet-18, CIFAR-100.
# Train resnet34_cifar100.py first, or name another teacher and its checkpoint.
from copy import deepcopy

_base_ = ['../resnet18_cifar100.py', '../_base_/methods/kd_cls.py']
student = _base_.model
student.backbone.out_indices = (0, 1, 2, 3)
teacher = deepcopy(student)
teacher.backbone.depth = 34
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=student,
    distiller=dict(
        teacher=teacher,
        checkpoint='work_dirs/resnet34_cifar100/epoch_200.pth',
        **_base_.distiller,
    ),
)
