# FRSKD with CutMix: python tools/train.py CONFIG --method frskd-cutmix
_base_ = ['../frskd_cls.py', './cutmix_cls.py']
model = dict(_delete_=True, student=_base_.model)
