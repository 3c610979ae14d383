# FRSKD+SLA: python tools/train.py CONFIG --method frskd-sla
_base_ = '../frskd_cls.py'
distiller = dict(
    type='frskd_mm.FRSKDSLA',
    # lambda; alpha and beta are those of FRSKD
    aggregate_loss=dict(
        type='frskd_mm.SoftLabelLoss', temperature=4.0, loss_weight=1.0
    ),
)
