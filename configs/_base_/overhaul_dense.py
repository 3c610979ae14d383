# Overhaul as a feature term of dense tasks. It sums over all places: beta of the
# overhaul authors' segmentation code (clovaai/overhaul-distillation@76344a8), untuned.
_feature_loss = dict(type='frskd_mm.OverhaulLoss', loss_weight=1e-5)
