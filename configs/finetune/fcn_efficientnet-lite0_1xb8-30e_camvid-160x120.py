# The same at 160x120, two thirds of each side: less than half the work.
_base_ = './fcn_efficientnet-lite0_1xb8-30e_camvid-240x180.py'
scale = (160, 120)  # width, height
crop_size = scale[::-1]
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = scale
train_pipeline[3].crop_size = crop_size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = scale
model = dict(data_preprocessor=dict(size=crop_size))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
