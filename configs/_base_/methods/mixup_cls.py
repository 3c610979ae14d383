# Mixup, no distiller: python tools/train.py CONFIG --method mixup
model = dict(train_cfg=dict(augments=dict(type='Mixup', alpha=0.2)))
