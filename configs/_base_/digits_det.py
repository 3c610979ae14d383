# Scenes composed of the embedded digits for detection: no download.
# Small, and easier than the defaults, so that a minute's training shows something.
size = 64
scene = dict(size=size, num_digits=(1, 2), digit_size=(26, 32), clutter=2, noise=8.0)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,  # the images are in memory
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='frskd_mm.DigitScenesDet',
        split='train',
        num_scenes=500,  # few, so that there is something to gain
        scene=scene,
        pipeline=[
            dict(type='LoadImageFromNDArray'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='frskd_mm.DigitScenesDet',
        split='test',
        num_scenes=200,
        scene=scene,
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromNDArray'),
            dict(type='Resize', scale=(size, size)),  # as is; detectors ask for a scale
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                type='PackDetInputs',
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                    'instances',  # CocoMetric makes its ground truth of them
                ),
            ),
        ],
    ),
)
val_evaluator = dict(type='CocoMetric', metric='bbox')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
