# FRSKD for segmentation.
distiller = dict(
    type='frskd_mm.FRSKD',
    neck=dict(
        type='frskd_mm.BiFPNc',
        # The classification recipe's 2 would more than double the cost of a
        # dilated ResNet-50, whose last three levels are 1/8 of the image:
        # 415 GMACs at 512x512 beside PSPNet's 178. This is 17.
        width=0.25,
        depth=2,
        norm_cfg=dict(type='SyncBN', requires_grad=True),  # as mmseg's heads
    ),
    # alpha, and K = 1 as in the authors' segmentation code
    soft_label=dict(
        type='frskd_mm.PixelSoftLabelLoss', temperature=1.0, loss_weight=1.0
    ),
    # Beta for maps of any size. The authors' 50 with reduction='mean' divides by
    # H * W: on their six levels of 128x128 to 4x4 it weighs the summed distances
    # by 50 * (1/16 + 1/64 + ...) = 4.2 in all, on a dilated ResNet's four levels
    # by 0.04. Four levels with 1.0 each restore the authors' total.
    feature_loss=dict(
        type='frskd_mm.AttentionTransferLoss', loss_weight=1.0, reduction='sum'
    ),
    # Nothing for two thirds of the training, then rising, as in the paper.
    weight_schedule=dict(begin=2 / 3, ramp='sigmoid', by_epoch=False),
    # False: the self-teacher's task loss also trains the backbone, as in the
    # authors' code
    detach_inputs=True,
)
