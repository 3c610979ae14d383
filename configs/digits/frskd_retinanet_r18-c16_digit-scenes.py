# FRSKD on the plain RetinaNet of the same name, with the same recipe.
_base_ = ['./retinanet_r18-c16_digit-scenes.py', '../_base_/frskd_det.py']
distiller = _base_.distiller
distiller.neck.norm_cfg = dict(type='BN')  # 32 images a batch
# So short a training leaves the self-teacher no time: distil in the last third.
distiller.weight_schedule.begin = 2 / 3
distiller.weight_schedule.ramp = 'sigmoid'
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=distiller,
)
