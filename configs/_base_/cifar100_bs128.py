# CIFAR-100 with pad-4 random crops and flips. FRSKD_DATA names the folder that
# contains cifar100/cifar-100-python; a missing copy is downloaded there.
data_root = '{{$FRSKD_DATA:data}}/cifar100'
data_preprocessor = dict(
    num_classes=100,
    # RGB statistics of the training images, as in mmpretrain
    mean=[129.304, 124.070, 112.434],
    std=[68.170, 65.392, 70.418],
    to_rgb=False,  # the images are RGB already
)
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=False,  # EpochSeedHook seeds them anew each epoch
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='frskd_mm.CIFAR100',
        data_root=data_root,
        split='train',
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=2,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='frskd_mm.CIFAR100',
        data_root=data_root,
        split='test',
        pipeline=[dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
