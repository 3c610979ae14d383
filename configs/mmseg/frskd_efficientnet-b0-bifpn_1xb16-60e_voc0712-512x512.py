# FRSKD with EfficientNet-b0 as published, VOC07+12 -> VOC07 test.
_base_ = [
    './efficientnet-b0-bifpn_1xb16-60e_voc0712-512x512.py',
    '../_base_/frskd_seg_published.py',
]
student = _base_.model
student.neck.last_bottom_up = True  # the self-teacher refines all six maps
model = dict(
    _delete_=True,
    type='frskd_mm.Distilled',
    student=student,
    distiller=_base_.distiller,
)
