# LGD: the self-teacher is made of the boxes and the student's maps, and scored by the
# student's own head. For detectors with an FPN.
# python tools/train.py CONFIG --method lgd
distiller = dict(
    type='frskd_mm.FRSKD',
    guidance=dict(type='frskd_mm.LGDGuidance'),
    neck=dict(type='frskd_mm.LGDRefinement'),
    source='neck',
    shared_head=True,
    # As for RetinaNet and FCOS in 2x schedules; True for Faster and Mask R-CNN.
    detach_inputs=False,
    soft_label=dict(type='frskd_mm.DetSoftLabelLoss', loss_weight=0.0),
    feature_loss=dict(type='frskd_mm.LGDLoss', loss_weight=1.0),
    # 30,000 of 180,000 iterations
    weight_schedule=dict(begin=1 / 6, by_epoch=False),
)
