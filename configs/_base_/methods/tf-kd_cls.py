# Tf-KD-reg: a virtual teacher that is right with probability 0.99.
distiller = dict(
    type='frskd_mm.TfKDReg', alpha=0.1, temperature=20.0, correct_prob=0.99
)
