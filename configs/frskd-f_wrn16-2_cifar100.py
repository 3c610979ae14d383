# FRSKD\F: soft labels only, no attention maps.
_base_ = './frskd_wrn16-2_cifar100.py'
model = dict(distiller=dict(feature_loss=dict(loss_weight=0.0)))
