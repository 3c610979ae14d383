# FRSKD with overhaul as its feature term.
_base_ = '../frskd_cls.py'
distiller = dict(
    # beta of the overhaul paper; none is published for FRSKD
    feature_loss=dict(_delete_=True, type='frskd_mm.OverhaulLoss', loss_weight=1e-3)
)
