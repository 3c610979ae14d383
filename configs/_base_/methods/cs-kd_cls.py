# python tools/train.py CONFIG --method cs-kd
_base_ = '../cs-kd_cls.py'
train_dataloader = dict(collate_fn=dict(type='frskd_mm.collate_pairs'))
