# Plain EfficientNet-lite0, fine-tuned from ImageNet on 500 training images of
# Fashion-MNIST, about 50 a class, at 64x64; the whole test split. FRSKD_DATA names the
# folder that contains fashion_mnist; a missing copy is downloaded there.
_base_ = [
    '../_base_/efficientnet-lite0.py',
    '../_base_/schedule_finetune.py',
    '../_base_/runtime_cls.py',
]
data_root = '{{$FRSKD_DATA:data}}/fashion_mnist'
num_classes = 10
data_preprocessor = dict(
    num_classes=num_classes,
    # What EfficientNet-lite was trained with.
    mean=[127.0, 127.0, 127.0],
    std=[128.0, 128.0, 128.0],
    to_rgb=False,
)
model = dict(head=dict(num_classes=num_classes))
to_three_channels = [
    dict(type='NumpyToPIL'),
    dict(type='torchvision/Grayscale', num_output_channels=3),
    dict(type='PILToNumpy'),
    dict(type='Resize', scale=64, interpolation='bicubic'),
]
train_pipeline = [
    *to_three_channels,
    dict(type='RandomCrop', crop_size=64, padding=8),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [*to_three_channels, dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='FashionMNIST',
        data_root=data_root,
        split='train',
        indices=500,  # the first ones
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='FashionMNIST',
        data_root=data_root,
        split='train',
        indices=-1000,  # the last ones
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy')
test_dataloader = dict(
    batch_size=250,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='FashionMNIST',
        data_root=data_root,
        split='test',
        test_mode=True,  # by which mmpretrain takes the files
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_evaluator = val_evaluator
# The base's rate, 0.01: on validation data the plain student does about as well as
# with 0.03, where FRSKD, attached, diverges, and worse with 0.003.
train_cfg = dict(by_epoch=True, max_epochs=40, val_interval=10)
default_hooks = dict(logger=dict(interval=8))
