# python tools/train.py CONFIG --method dlb
_base_ = '../dlb_cls.py'
train_dataloader = dict(collate_fn=dict(type='frskd_mm.collate_pairs'))
