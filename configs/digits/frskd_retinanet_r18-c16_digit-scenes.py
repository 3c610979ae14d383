# FRSKD on the plain RetinaNet of the same name, with the same recipe.
_base_ = ['./retinanet_r18-c16_digit-scenes.py', '../_base_/frskd_det.py']
distiller = _base_.distiller
distiller.neck.norm_cfg = dict(type='BN')  # 32 images a batch
# Distil in the last third: before, student and self-teacher know nothing yet.
distiller.weight_schedule = dict(begin=8, ramp='sigmoid')
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=distiller,
)
