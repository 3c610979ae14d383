# SLA-SD: the aggregate of four rotations teaches the plain head.
distiller = dict(
    type='frskd_mm.SLA',
    soft_label=dict(type='frskd_mm.SoftLabelLoss', temperature=1.0, loss_weight=1.0),
)
