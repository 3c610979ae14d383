# Label smoothing, WRN-16-2, CIFAR-100: the cheap rival of self-distillation.
_base_ = '../wrn16-2_cifar100.py'
model = dict(
    head=dict(loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1))
)
