# BYOT: a classifier at every stage, taught by the deepest one.
distiller = dict(
    type='frskd_mm.BYOT',
    # alpha is 0.3; the authors do not scale by the temperature squared
    soft_label=dict(
        type='frskd_mm.SoftLabelLoss', temperature=3.0, loss_weight=0.3 / 9
    ),
    label_weight=0.7,  # 1 - alpha
    hint_weight=0.03,
)
