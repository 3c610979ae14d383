# FRSKD+SLA: python tools/train.py CONFIG --method frskd-sla
_base_ = '../frskd_cls.py'
distiller = dict(
    type='frskd_mm.FRSKDSLA',
    # lambda; alpha, beta and the temperature are those of FRSKD
    aggregate_loss=dict(
        type='frskd_mm.SoftLabelLoss',
        temperature=_base_.distiller.soft_label.temperature,
        loss_weight=1.0,
    ),
)
