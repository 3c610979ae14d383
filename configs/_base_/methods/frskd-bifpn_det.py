# FRSKD with the BiFPN self-teacher: 256 channels at every level.
_base_ = '../frskd_det.py'
distiller = dict(
    neck=dict(
        _delete_=True,
        type='frskd_mm.BiFPN',
        out_channels=256,
        depth=2,
        norm_cfg=dict(type='GN', num_groups=32),
    )
)
