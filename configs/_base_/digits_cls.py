# Embedded handwritten digits, 20 training images a class: no download.
size = 24  # pixels; the originals have 8
data_preprocessor = dict(
    num_classes=10,
    # statistics of the training images
    mean=[78.0, 78.0, 78.0],
    std=[83.0, 83.0, 83.0],
    to_rgb=False,  # grey
)
train_dataloader = dict(
    batch_size=20,
    num_workers=0,  # the images are in memory
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='frskd_mm.Digits',
        split='train',
        num_per_class=20,  # few, so that there is something to gain
        size=size,
        pipeline=[
            dict(type='RandomCrop', crop_size=size, padding=3),
            dict(type='PackInputs'),
        ],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='frskd_mm.Digits',
        split='test',
        size=size,
        pipeline=[dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
