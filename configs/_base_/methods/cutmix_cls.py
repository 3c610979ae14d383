# CutMix, no distiller: python tools/train.py CONFIG --method cutmix
model = dict(train_cfg=dict(augments=dict(type='CutMix', alpha=1.0)))
