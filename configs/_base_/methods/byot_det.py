# BYOT for detection: heads of the student's kind at every stage, an extension.
_base_ = './byot_cls.py'
distiller = dict(
    soft_label=dict(
        _delete_=True,
        type='frskd_mm.DetSoftLabelLoss',
        temperature=1.0,
        loss_weight=0.3,  # alpha
    )
)
