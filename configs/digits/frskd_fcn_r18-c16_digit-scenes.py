# FRSKD on the plain FCN of the same name, with the same recipe.
_base_ = ['./fcn_r18-c16_digit-scenes.py', '../_base_/frskd_seg.py']
distiller = _base_.distiller
distiller.neck.width = 1  # its levels are narrow: 16 to 128 channels
distiller.neck.norm_cfg = dict(type='BN')  # SyncBN needs a GPU
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=distiller,
)
