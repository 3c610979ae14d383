# FRSKD on mmseg's PSPNet, recipe unchanged: what --method frskd does.
_base_ = [
    'mmseg::pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py',
    '../_base_/frskd_seg.py',
]
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=_base_.distiller,
)
