# The same with 100 training images a class.
_base_ = './efficientnet-lite0_cifar100-20-per-class.py'
train_dataloader = dict(dataset=dict(num_per_class=100))
