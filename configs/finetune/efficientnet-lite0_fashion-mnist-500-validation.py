# The same, tested on the last 5,000 training images: for choosing settings without the
# test split.
_base_ = './efficientnet-lite0_fashion-mnist-500.py'
test_dataloader = dict(dataset=dict(split='train', test_mode=False, indices=-5000))
