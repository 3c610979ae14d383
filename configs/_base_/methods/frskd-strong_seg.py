# FRSKD with strong soft labels, an extension, for segmentors that overfit: as wide as
# the student's maps, attached, and softened as in classification.
# python tools/train.py CONFIG --method frskd-strong
_base_ = './frskd-attached_seg.py'
distiller = dict(
    neck=dict(width=1),
    # Of 8, 16 and 32, alike on digit scenes, the smallest; 2 was behind.
    soft_label=dict(temperature=4.0, loss_weight=8.0),
    weight_schedule=dict(begin=1 / 6),
)
