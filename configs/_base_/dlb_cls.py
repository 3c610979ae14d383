# DLB: the last mini-batch's predictions are soft labels for its second view.
distiller = dict(
    type='frskd_mm.DLB',
    soft_label=dict(type='frskd_mm.SoftLabelLoss', temperature=3.0, loss_weight=1.0),
)
dataset_wrapper = dict(type='frskd_mm.PairDataset', partner='same_image')
