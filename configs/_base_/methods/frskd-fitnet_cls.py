# FRSKD with FitNet as its feature term.
_base_ = ['../frskd_cls.py', '../fitnet.py']
distiller = dict(feature_loss=dict(_delete_=True, **_base_._feature_loss))
