# The published student of the next size.
_base_ = './efficientnet-b0-bifpn_1xb16-60e_voc0712-512x512.py'
checkpoint = 'https://download.openmmlab.com/mmclassification/v0/efficientnet/efficientnet-b1_3rdparty_8xb32_in1k_20220119-002556d9.pth'
model = dict(
    backbone=dict(arch='b1', init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(out_channels=88),
    decode_head=dict(in_channels=88),
)
