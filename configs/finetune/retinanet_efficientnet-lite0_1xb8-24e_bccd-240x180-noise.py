# The same with 40 % of the training boxes annotated as another class. The learning
# rate is that of the plain student with right labels.
_base_ = './retinanet_efficientnet-lite0_1xb8-24e_bccd-240x180.py'
train_pipeline = _base_.train_pipeline
train_pipeline.insert(2, dict(type='frskd_mm.LabelNoise', fraction=0.4, num_classes=3))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=4e-3))
