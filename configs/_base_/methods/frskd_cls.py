# python tools/train.py CONFIG --method frskd
_base_ = '../frskd_cls.py'
