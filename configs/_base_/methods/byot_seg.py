# BYOT for segmentation: a decode head at every stage, an extension.
_base_ = './byot_cls.py'
_soft_label = _base_.distiller.soft_label
distiller = dict(
    soft_label=dict(
        type='frskd_mm.PixelSoftLabelLoss',
        temperature=1.0,
        loss_weight=_soft_label.loss_weight * _soft_label.temperature**2,  # alpha
    )
)
