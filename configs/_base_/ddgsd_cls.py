# DDGSD: two distorted views of an image teach each other.
distiller = dict(
    type='frskd_mm.DDGSD',
    soft_label=dict(type='frskd_mm.SoftLabelLoss', temperature=1.0, loss_weight=1.0),
    mmd_weight=5e-4,
)
dataset_wrapper = dict(type='frskd_mm.PairDataset', partner='same_image')
