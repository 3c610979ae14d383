# For networks with weights of ImageNet: SGD, one epoch of warm-up and a cosine.
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True),
    # to 0
    dict(type='CosineAnnealingLR', begin=1, by_epoch=True, convert_to_iter_based=True),
]
val_cfg = dict()
test_cfg = dict()
