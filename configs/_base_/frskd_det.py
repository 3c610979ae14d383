# FRSKD for detectors, an extension: no settings were published.
distiller = dict(
    type='frskd_mm.FRSKD',
    # As wide as the maps it refines, so that any head reads them. GN: a GPU has
    # two images of a 1x schedule, too few for batch norm.
    neck=dict(
        type='frskd_mm.BiFPNc',
        width=1,
        depth=2,
        norm_cfg=dict(type='GN', num_groups=32),
    ),
    # alpha. Places weigh as much as the self-teacher is confident, squared;
    # None: all alike, 'boxes': those within ground-truth boxes
    soft_label=dict(
        type='frskd_mm.DetSoftLabelLoss',
        temperature=1.0,
        loss_weight=1.0,
        foreground='confidence',
        bbox_weight=0.0,  # box regression; GFL's box distributions are always in
    ),
    # beta; 'sum' does not depend on the image size
    feature_loss=dict(
        type='frskd_mm.DetAttentionTransferLoss', reduction='sum', loss_weight=1.0
    ),
    # The self-teacher learns alone for a sixth of the training, as in LGD.
    weight_schedule=dict(begin=1 / 6, by_epoch=False),
)
