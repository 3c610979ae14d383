# Ours, an extension: FRSKD whose self-teacher sees the ground truth.
# python tools/train.py CONFIG --method label-guided
_base_ = ['../frskd_seg.py', '../label_guided.py']
distiller = dict(
    guidance=_base_._guidance,
    detach_inputs=False,
    soft_label=dict(loss_weight=0.0),
    feature_loss=dict(_delete_=True, **_base_._feature_loss),
)
