"""Build a feature loss for the maps that it will compare."""

from inspect import signature
from typing import Optional, Sequence

from torch import nn

from frskd_mm.registry import MODELS


def build_feature_loss(
    cfg: dict,
    in_channels: Sequence[int],
    out_channels: Sequence[int],
    teacher_norms: Optional[Sequence[nn.Module]] = None,
) -> nn.Module:
    """Build L_F and hand it what its class asks for.

    A feature loss is called as ``loss(student_feats, teacher_feats)`` and has
    a ``loss_weight`` and a ``loss_name``. One with adapters takes
    ``in_channels`` and ``out_channels`` in its constructor, one that needs the
    norms before the teacher's maps ``teacher_norms``; what the config sets by
    hand stays. One that compares the maps before their last ReLU says
    ``preact = True``.

    Args:
        cfg (dict): Its config.
        in_channels (Sequence[int]): Channels c_i of the student's maps.
        out_channels (Sequence[int]): Channels d_i of the teacher's maps.
        teacher_norms (Sequence[nn.Module], optional): The norm that ends each
            map of the teacher before its activation, if there is one.

    Returns:
        nn.Module: The loss; with weight 0 its parameters are frozen, since
        DistributedDataParallel would wait for their gradients.
    """
    inferred = dict(
        in_channels=list(in_channels),
        out_channels=list(out_channels),
        teacher_norms=teacher_norms,
    )
    loss_class = cfg['type']
    if isinstance(loss_class, str):
        loss_class = MODELS.get(loss_class)
    # An unknown type is reported by build().
    wanted = signature(loss_class).parameters if loss_class else ()
    loss = MODELS.build(
        cfg, default_args={k: v for k, v in inferred.items() if k in wanted}
    )
    if not loss.loss_weight:
        loss.requires_grad_(False)
    return loss


def compares_preacts(loss: Optional[nn.Module]) -> bool:
    """Whether a feature loss compares the maps before their last ReLU."""
    return bool(loss is not None and loss.loss_weight) and getattr(
        loss, 'preact', False
    )
