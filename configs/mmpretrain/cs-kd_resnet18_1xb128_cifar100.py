# CS-KD, ResNet-18, CIFAR-100, on the schedule of the plain student: a method that
# reads pairs of images, so the training set is wrapped, too.
_base_ = ['../resnet18_cifar100.py', '../_base_/cs-kd_cls.py']
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=_base_.distiller,
)
train_dataloader = dict(
    collate_fn=dict(type='frskd_mm.collate_pairs'),
    dataset=dict(
        _delete_=True,
        **_base_.dataset_wrapper,
        dataset=_base_.train_dataloader.dataset,
    ),
)
