# BYOT for detection: heads of the student's kind at every stage, an extension.
_base_ = './byot_seg.py'
distiller = dict(soft_label=dict(type='frskd_mm.DetSoftLabelLoss'))
