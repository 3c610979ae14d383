# Soft labels of a pretrained WRN-40-2 for WRN-16-2, CIFAR-100.
# Train wrn40-2_1xb128_cifar100.py first, or name another teacher and its checkpoint.
_base_ = ['./wrn16-2_1xb128_cifar100.py', '../_base_/methods/kd_cls.py']
student = _base_.model
student.backbone.out_indices = (0, 1, 2)
teacher = student.to_dict()  # a copy
teacher['backbone']['depth'] = 40
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=student,
    distiller=dict(
        teacher=teacher,
        checkpoint='work_dirs/wrn40-2_1xb128_cifar100/epoch_200.pth',
        **_base_.distiller,
    ),
)
