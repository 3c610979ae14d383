# Soft labels and overhaul from a pretrained teacher.
_base_ = ['./kd_cls.py', '../overhaul.py']
distiller = dict(
    # 'norm' would need to know which norm precedes a map of the teacher's.
    feature_loss=dict(**_base_._feature_loss, margin='batch')
)
