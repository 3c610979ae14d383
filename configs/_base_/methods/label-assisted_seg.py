# Label-assisted distillation in one training: the self-teacher sees the label map, each
# class as a random value.
# python tools/train.py CONFIG --method label-assisted
_base_ = '../frskd_seg.py'
distiller = dict(
    guidance=dict(identity=False, drop=0.0),
    soft_label=dict(
        _delete_=True, type='frskd_mm.ChannelSoftLabelLoss', loss_weight=3.0
    ),
    feature_loss=dict(loss_weight=0.0),
    # The teacher is trained first in the paper; here it has half of the training alone.
    # The term then has its whole weight at once, as there.
    weight_schedule=dict(begin=0.5, ramp=None),
)
