# A class-balanced part of CIFAR-100, enlarged for networks that were trained on larger
# images. Other sizes: Resize and RandomCrop of train_pipeline, Resize of test_pipeline.
_base_ = './cifar100_bs128.py'
data_preprocessor = dict(
    _delete_=True,
    num_classes=100,
    # what EfficientNet-lite was trained with
    mean=[127.0, 127.0, 127.0],
    std=[128.0, 128.0, 128.0],
    to_rgb=False,  # the images are RGB already
)
train_pipeline = [
    dict(type='Resize', scale=64, interpolation='bicubic'),
    dict(type='RandomCrop', crop_size=64, padding=8),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='Resize', scale=64, interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    dataset=dict(num_per_class=20, pipeline=train_pipeline),
)
# For learning curves, 10 of the images that are left for validation: the last 50 a
# class, so that up to 450 are there to train on.
val_dataloader = dict(
    num_workers=0,
    dataset=dict(
        split='train', skip_per_class=450, num_per_class=10, pipeline=test_pipeline
    ),
)
test_dataloader = dict(num_workers=0, dataset=dict(pipeline=test_pipeline))
