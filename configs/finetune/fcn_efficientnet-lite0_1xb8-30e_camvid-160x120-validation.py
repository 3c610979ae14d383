# The same, tested on the validation split: for choosing settings without the test
# split.
_base_ = './fcn_efficientnet-lite0_1xb8-30e_camvid-160x120.py'
test_dataloader = dict(dataset=dict(split='val'))
