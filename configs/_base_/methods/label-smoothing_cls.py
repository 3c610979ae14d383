# Label smoothing, no distiller: python tools/train.py CONFIG --method label-smoothing
model = dict(
    head=dict(loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1))
)
