# Plain FCN on an EfficientNet-lite0 from ImageNet that reads all four levels,
# fine-tuned on CamVid.
_base_ = '../mmseg/fcn_r18-c16_1xb8-30e_camvid-240x180.py'
model = dict(
    # What EfficientNet-lite was trained with.
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3),
    backbone=dict(_delete_=True, type='frskd_mm.EfficientNetLite', arch='lite0'),
    decode_head=dict(in_channels=[24, 40, 112, 320]),
)
# AdamW, as for other pretrained backbones here: the scale of a method's additional
# gradients does not move its steps, as it does SGD's.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.01)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=45),
    dict(
        type='PolyLR',
        eta_min=0.0,
        power=0.9,
        begin=1,
        end=30,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
