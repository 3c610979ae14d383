# FRSKD with Mixup: python tools/train.py CONFIG --method frskd-mixup
_base_ = ['../frskd_cls.py', './mixup_cls.py']
model = dict(_delete_=True, student=_base_.model)
