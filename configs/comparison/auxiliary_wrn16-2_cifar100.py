# The attached self-teacher without distillation, WRN-16-2, CIFAR-100: the rival that
# tells FRSKD's terms from its second classifier.
_base_ = '../frskd-attached_wrn16-2_cifar100.py'
model = dict(
    distiller=dict(soft_label=dict(loss_weight=0.0), feature_loss=dict(loss_weight=0.0))
)
