# Soft labels and attention transfer from a pretrained teacher.
_base_ = './kd_cls.py'
distiller = dict(
    # the weight in HobbitLong/RepDistiller
    feature_loss=dict(type='frskd_mm.AttentionTransferLoss', loss_weight=1000.0)
)
