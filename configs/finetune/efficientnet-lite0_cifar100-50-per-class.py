# The same with 50 training images a class, for 15 epochs.
_base_ = './efficientnet-lite0_cifar100-20-per-class.py'
train_dataloader = dict(dataset=dict(num_per_class=50))
train_cfg = dict(max_epochs=15, val_interval=5)
