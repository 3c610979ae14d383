# FRSKD, RetinaNet, R50, COCO: mmdetection's 1x recipe.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', './_base_/frskd_det.py']
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=_base_.distiller,
)
