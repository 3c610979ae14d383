# FRSKD, Mask R-CNN, R50, COCO: mmdetection's 1x recipe.
_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_base_/frskd_det.py']
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=_base_.distiller,
)
