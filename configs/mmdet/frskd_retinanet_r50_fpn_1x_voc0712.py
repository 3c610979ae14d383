# FRSKD, RetinaNet, R50, Pascal VOC: mmdetection's recipe.
_base_ = ['mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py', '../_base_/frskd_det.py']
distiller = _base_.distiller
distiller.weight_schedule.begin = 1  # of 4 epochs, which pass 3 times over the data
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=distiller,
)
