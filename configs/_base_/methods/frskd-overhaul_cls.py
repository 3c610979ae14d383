# FRSKD with overhaul as its feature term.
_base_ = ['../frskd_cls.py', '../overhaul.py']
distiller = dict(feature_loss=dict(_delete_=True, **_base_._feature_loss))
