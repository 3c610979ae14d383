# The same with 50 training images a class.
_base_ = './efficientnet-lite0_cifar100-20-per-class.py'
train_dataloader = dict(dataset=dict(num_per_class=50))
