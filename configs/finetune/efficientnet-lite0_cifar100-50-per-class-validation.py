# The same, tested on the validation part of the training images, 50 a class: for
# choosing settings without the test split.
_base_ = './efficientnet-lite0_cifar100-50-per-class.py'
test_dataloader = dict(dataset=dict(split='train', skip_per_class=450))
