# FRSKD with the BiFPN self-teacher, ResNet-18, CIFAR-100: a distilled config whose
# neck is another one.
_base_ = ['../frskd_resnet18_cifar100.py', '../_base_/bifpn.py']
_depth = _base_.model.distiller.neck.depth
model = dict(distiller=dict(neck=dict(_delete_=True, **_base_._neck, depth=_depth)))
