# ONE: three branches on the last stage, taught by their gated ensemble.
distiller = dict(
    type='frskd_mm.ONE',
    num_branches=3,
    soft_label=dict(type='frskd_mm.SoftLabelLoss', temperature=3.0, loss_weight=1.0),
    # the authors' 80 of 300 epochs, as a fraction of any training
    weight_schedule=dict(ramp='sigmoid', ramp_end=80 / 300),
)
