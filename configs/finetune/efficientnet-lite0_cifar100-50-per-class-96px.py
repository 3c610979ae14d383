# The same with 50 training images a class at 96x96: 2.25 times the work.
_base_ = './efficientnet-lite0_cifar100-50-per-class.py'
train_pipeline = _base_.train_pipeline
train_pipeline[0].scale = 96
train_pipeline[1].update(crop_size=96, padding=12)
test_pipeline = _base_.test_pipeline
test_pipeline[0].scale = 96
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
