# FRSKD with overhaul as its feature term.
_base_ = '../frskd_seg.py'
distiller = dict(
    # A sum over all places: beta of the overhaul authors' segmentation code
    # (clovaai/overhaul-distillation@76344a8), untuned
    feature_loss=dict(_delete_=True, type='frskd_mm.OverhaulLoss', loss_weight=1e-5)
)
