# FRSKD with CutMix: python tools/train.py CONFIG --method frskd-cutmix
_base_ = '../frskd_cls.py'
model = dict(student=dict(train_cfg=dict(augments=dict(type='CutMix', alpha=1.0))))
