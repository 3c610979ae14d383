# Ours, an extension: FRSKD whose self-teacher sees the ground truth.
# python tools/train.py CONFIG --method label-guided
_base_ = '../frskd_seg.py'
distiller = dict(
    guidance=dict(drop=0.2),
    detach_inputs=False,
    # Correlation of the maps instead of soft labels and attention.
    soft_label=dict(loss_weight=0.0),
    feature_loss=dict(_delete_=True, type='frskd_mm.PKDLoss', loss_weight=1.0),
)
