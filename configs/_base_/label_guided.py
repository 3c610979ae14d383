# What label-guided self-teachers of all tasks share.
_guidance = dict(drop=0.2)
# Correlation of the maps instead of soft labels and attention.
_feature_loss = dict(type='frskd_mm.PKDLoss', loss_weight=1.0)
