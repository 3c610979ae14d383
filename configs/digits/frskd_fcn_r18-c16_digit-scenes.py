# FRSKD on the plain FCN of the same name, with the same recipe.
_base_ = ['./fcn_r18-c16_digit-scenes.py', '../_base_/frskd_seg.py']
distiller = _base_.distiller
distiller.neck.width = 1  # its levels are narrow: 16 to 128 channels
distiller.neck.norm_cfg = dict(type='BN')  # SyncBN needs a GPU
# Distil in the last third, as the authors do for segmentation: before, student
# and self-teacher know nothing yet and would hold each other back.
distiller.weight_schedule = dict(begin=8, ramp='sigmoid')
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=distiller,
)
