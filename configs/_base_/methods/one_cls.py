# ONE: three branches on the last stage, taught by their gated ensemble.
distiller = dict(
    type='frskd_mm.ONE',
    num_branches=3,
    soft_label=dict(type='frskd_mm.SoftLabelLoss', temperature=3.0, loss_weight=1.0),
    # 80 of 300 epochs in the authors' recipe
    weight_schedule=dict(ramp='sigmoid', ramp_end=80),
)
