# FRSKD with the BiFPN self-teacher: python tools/train.py CONFIG --method frskd-bifpn
_base_ = ['../frskd_det.py', '../bifpn.py']
distiller = dict(
    neck=dict(
        _delete_=True,
        **_base_._neck,
        depth=_base_.distiller.neck.depth,
        norm_cfg=_base_.distiller.neck.norm_cfg,
    )
)
