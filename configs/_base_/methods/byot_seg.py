# BYOT for segmentation: a decode head at every stage, an extension.
_base_ = './byot_cls.py'
distiller = dict(
    soft_label=dict(
        _delete_=True,
        type='frskd_mm.PixelSoftLabelLoss',
        temperature=1.0,
        loss_weight=0.3,  # alpha
    )
)
