# Scenes composed of the embedded digits for segmentation: no download.
# Small, and easier than the defaults, so that a minute's training shows something.
size = 64
scene = dict(
    size=size,
    num_digits=(1, 2),
    digit_size=(26, 32),
    clutter=2,
    noise=8.0,
    # Weights of classes and ignored pixels together end in an IndexError in
    # mmsegmentation 1.2.2 (its issue 3734).
    ignore_edges=False,
)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,  # the images are in memory
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='frskd_mm.DigitScenesSeg',
        split='train',
        num_scenes=500,  # few, so that there is something to gain
        scene=scene,
        pipeline=[dict(type='LoadImageFromNDArray'), dict(type='PackSegInputs')],
    ),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='frskd_mm.DigitScenesSeg',
        split='test',
        num_scenes=200,
        scene=scene,
        test_mode=True,
        pipeline=[dict(type='LoadImageFromNDArray'), dict(type='PackSegInputs')],
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_dataloader = val_dataloader
test_evaluator = val_evaluator
