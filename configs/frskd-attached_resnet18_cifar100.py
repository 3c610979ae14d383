# FRSKD as in the authors' code: the self-teacher's loss also trains the backbone.
_base_ = './frskd_resnet18_cifar100.py'
model = dict(distiller=dict(detach_inputs=False))
