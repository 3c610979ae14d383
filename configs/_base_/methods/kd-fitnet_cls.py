# Soft labels and FitNet from a pretrained teacher.
_base_ = './kd_cls.py'
distiller = dict(
    # the weight in HobbitLong/RepDistiller
    feature_loss=dict(type='frskd_mm.FitNetLoss', loss_weight=100.0)
)
