# Overhaul as a feature term, with beta of the overhaul paper; none is published for
# FRSKD.
_feature_loss = dict(type='frskd_mm.OverhaulLoss', loss_weight=1e-3)
