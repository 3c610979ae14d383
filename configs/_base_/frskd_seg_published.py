# FRSKD as in the authors' segmentation code.
distiller = dict(
    type='frskd_mm.FRSKD',
    source='neck',
    # Two layers on the student's three; the last one is top-down only.
    neck=dict(type='frskd_mm.BiFPNSeg', num_layers=2, last_bottom_up=False),
    soft_label=dict(
        type='frskd_mm.PixelSoftLabelLoss',
        temperature=1.0,
        loss_weight=1.0,
        upsample=True,
        mask_ignored=False,
    ),
    feature_loss=dict(type='frskd_mm.AttentionTransferLoss', loss_weight=50.0),
    # Not detached: the classifier reads the finest of the student's six maps
    # alone, so only the self-teacher's loss trains what makes the other five.
    detach_inputs=False,
    # alpha = beta = 0 for 40 epochs, then a sigmoid ramp up to the end
    weight_schedule=dict(begin=40, ramp='sigmoid'),
)
