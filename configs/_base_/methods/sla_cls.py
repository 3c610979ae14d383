# python tools/train.py CONFIG --method sla
_base_ = '../sla_cls.py'
