# Ours, an extension: FRSKD whose self-teacher sees the ground truth.
# python tools/train.py CONFIG --method label-guided
_base_ = ['../frskd_det.py', '../label_guided.py']
distiller = dict(
    guidance=dict(**_base_._guidance, jitter=0.1),
    # In a pilot the better supervised gradients into the backbone carried the gain.
    detach_inputs=False,
    soft_label=dict(loss_weight=0.0),
    feature_loss=dict(_delete_=True, **_base_._feature_loss),
)
