# python tools/train.py CONFIG --method tf-kd
_base_ = '../tf-kd_cls.py'
