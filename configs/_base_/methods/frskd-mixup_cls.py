# FRSKD with Mixup: python tools/train.py CONFIG --method frskd-mixup
_base_ = '../frskd_cls.py'
model = dict(student=dict(train_cfg=dict(augments=dict(type='Mixup', alpha=0.2))))
