# FRSKD, RetinaNet with a narrow ResNet-18, BCCD: the plain student's recipe.
_base_ = ['./retinanet_r18-narrow_1xb8-24e_bccd.py', '../_base_/frskd_det.py']
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=_base_.distiller,
)
