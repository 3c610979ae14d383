# USKD: python tools/train.py CONFIG --method uskd
distiller = dict(
    type='frskd_mm.USKD',
    uskd=dict(alpha=0.1, beta=0.1, mu=0.1),  # for ImageNet 1.0, 0.1, 0.005
)
