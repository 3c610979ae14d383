# FRSKD+SLA, WRN-16-2, CIFAR-100.
_base_ = '../frskd_wrn16-2_cifar100.py'
model = dict(
    distiller=dict(
        type='frskd_mm.FRSKDSLA',
        # lambda; alpha and beta are those of FRSKD
        aggregate_loss=dict(
            type='frskd_mm.SoftLabelLoss', temperature=4.0, loss_weight=1.0
        ),
    )
)
