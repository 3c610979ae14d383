# FRSKD with overhaul as its feature term.
_base_ = ['../frskd_det.py', '../overhaul_dense.py']
distiller = dict(feature_loss=dict(_delete_=True, **_base_._feature_loss))
