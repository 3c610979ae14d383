# python tools/train.py CONFIG --method consistency
_base_ = '../consistency_cls.py'
train_dataloader = dict(collate_fn=dict(type='frskd_mm.collate_pairs'))
