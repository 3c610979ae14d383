# Plain FCN on an EfficientNet-lite0 from ImageNet that reads all four levels,
# fine-tuned on CamVid.
_base_ = '../mmseg/fcn_r18-c16_1xb8-30e_camvid-240x180.py'
model = dict(
    # What EfficientNet-lite was trained with.
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3),
    backbone=dict(_delete_=True, type='frskd_mm.EfficientNetLite', arch='lite0'),
    decode_head=dict(in_channels=[24, 40, 112, 320]),
)
# Chosen on the validation split at 160x120, of 0.01 to 0.8.
optim_wrapper = dict(optimizer=dict(lr=0.4, nesterov=True))
