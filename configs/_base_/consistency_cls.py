# UDA-like consistency: the clean view teaches the strongly augmented one.
distiller = dict(
    type='frskd_mm.Consistency',
    soft_label=dict(type='frskd_mm.SoftLabelLoss', temperature=1.0, loss_weight=1.0),
    # 0.4 and 0.8 in UDA's semi-supervised CIFAR-10 recipe. With labels for all
    # images, all count and targets stay as they are.
    sharpening=1.0,
    threshold=0.0,
)
dataset_wrapper = dict(
    type='frskd_mm.PairDataset',
    partner='same_image',
    # 2 operations of magnitude 14 out of 30
    extra_transforms=[
        dict(
            type='RandAugment',
            policies='timm_increasing',
            num_policies=2,
            total_level=30,
            magnitude_level=14,
        )
    ],
)
