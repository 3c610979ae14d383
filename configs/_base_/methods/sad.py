# SAD: every level looks where the next deeper one looks.
# The weight is the one for lane detection; none is published for classification.
distiller = dict(type='frskd_mm.SAD', loss_weight=0.1)
