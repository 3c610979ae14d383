# CS-KD: the prediction for another image of the class is the soft label.
distiller = dict(
    type='frskd_mm.CSKD',
    soft_label=dict(type='frskd_mm.SoftLabelLoss', temperature=4.0, loss_weight=1.0),
)
dataset_wrapper = dict(type='frskd_mm.PairDataset', partner='same_class')
