# python tools/train.py CONFIG --method ps-kd
_base_ = '../ps-kd_cls.py'
