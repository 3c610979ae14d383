# FitNet as FRSKD's feature term. No beta is published for it. 1 makes it about as
# large as attention transfer with its 100 on CIFAR-100; untuned.
_feature_loss = dict(type='frskd_mm.FitNetLoss', loss_weight=1.0)
