# Zipf's label smoothing: python tools/train.py CONFIG --method zipf-ls
distiller = dict(
    type='frskd_mm.ZipfLS',
    zipf=dict(loss_weight=0.1),  # lambda; 1.0 for TinyImageNet
)
