# python tools/train.py CONFIG --method ddgsd
_base_ = '../ddgsd_cls.py'
train_dataloader = dict(collate_fn=dict(type='frskd_mm.collate_pairs'))
