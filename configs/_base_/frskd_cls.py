# FRSKD for classification: the authors' settings for CIFAR-100.
distiller = dict(
    type='frskd_mm.FRSKD',
    neck=dict(type='frskd_mm.BiFPNc', width=2, depth=2),
    # alpha, {1, 2, 3} in the paper
    soft_label=dict(type='frskd_mm.SoftLabelLoss', temperature=4.0, loss_weight=2.0),
    # beta, {100, 200} in the paper; 0 is FRSKD without features (FRSKD\F)
    feature_loss=dict(type='frskd_mm.AttentionTransferLoss', loss_weight=100.0),
    # False: the self-teacher's task loss also trains the backbone, as in the
    # authors' code
    detach_inputs=True,
)
