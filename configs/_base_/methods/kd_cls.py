# Distillation from a pretrained teacher: w, alpha and the temperature of
# HobbitLong/RepDistiller. The experiment names teacher and checkpoint.
distiller = dict(
    type='frskd_mm.PretrainedTeacher',
    student_loss_weight=0.1,
    soft_label=dict(type='frskd_mm.SoftLabelLoss', temperature=4.0, loss_weight=0.9),
)
