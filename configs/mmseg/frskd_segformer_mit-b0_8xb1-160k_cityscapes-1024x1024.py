# FRSKD on mmseg's SegFormer, recipe unchanged.
_base_ = [
    'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
    '../_base_/frskd_seg.py',
]
distiller = _base_.distiller
distiller.neck.width = 2  # the paper's: MiT-b0 is narrow, 32 to 256 channels
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=_base_.model,
    distiller=distiller,
)
# The self-teacher is new like the head, whose rate is ten times the backbone's.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'distiller': dict(lr_mult=10.0)}))
