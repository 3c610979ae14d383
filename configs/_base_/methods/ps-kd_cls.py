# PS-KD: the last epoch's own predictions soften the targets.
distiller = dict(
    type='frskd_mm.PSKD',
    # Images of the training set, or more: 50,000 of CIFAR-100
    num_samples=50000,
    alpha=0.8,
)
