# Soft labels and overhaul from a pretrained teacher.
_base_ = './kd_cls.py'
distiller = dict(
    # the paper's weight for CIFAR-100
    feature_loss=dict(type='frskd_mm.OverhaulLoss', loss_weight=1e-3, margin='batch')
)
