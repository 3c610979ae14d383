# The plain ResNet-18 with a stronger recipe than the paper's: five times the weight
# decay, Nesterov momentum, an epoch of warm-up and a cosine to 0.
_base_ = '../resnet18_cifar100.py'
optim_wrapper = dict(optimizer=dict(nesterov=True, weight_decay=5e-4))
max_epochs = 200
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        begin=1,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
