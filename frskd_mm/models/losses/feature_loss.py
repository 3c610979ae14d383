"""What every comparison of feature maps shares."""

from abc import abstractmethod
from typing import List, Optional, Sequence, Union

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, check_arguments, one_of
from frskd_mm.utils.model import class_of
from frskd_mm.utils.precision import full_precision

from .foreground import FOREGROUNDS


class FeatureLoss(BaseModule):
    """L_F: pull the student's feature maps towards the teacher's, level by level.

    A feature loss is one registered subclass that implements
    :meth:`level_loss`. This class checks the levels, detaches the teacher's
    maps, leaves autocast, sums over levels and weighs.

    Class attributes of a subclass say what it is given and how it is logged:

    * ``loss_name``: the term's name; it must contain 'loss';
    * ``preact``: whether it compares the maps before their last ReLU.

    Adapters are built in the constructor, from ``in_channels`` and
    ``out_channels``, which the distiller infers and hands to every feature
    loss, with what the config sets by hand before them. A constructor takes
    what it needs and hands the rest on: ``super().__init__(**kwargs)``.

    Args:
        loss_weight (float): Beta.
        in_channels (Sequence[int], optional): Channels c_i of the student's
            maps, fine to coarse, given by the distiller.
        out_channels (Sequence[int], optional): Channels d_i of the teacher's
            maps, given by the distiller.
        teacher_norms (Sequence[nn.Module], optional): The norm that ends each
            map of the teacher before its activation, where there is one, given
            by the distiller; only to be read in the constructor.
        foreground (str, optional): Weight of a detector's positions: None;
            'confidence', the square of the self-teacher's confidence at that
            position; or 'boxes', 1 within ground-truth boxes and 0 outside.
            Defaults to None.
        init_cfg (dict | list[dict], optional): Initialisation of adapters.

    Raises:
        ValueError: If the weighting is unknown.
    """

    loss_name = 'loss_feature'
    preact = False

    @check_arguments(loss_weight=NOT_NEGATIVE, foreground=one_of(*FOREGROUNDS))
    def __init__(
        self,
        loss_weight: float,
        in_channels: Optional[Sequence[int]] = None,
        out_channels: Optional[Sequence[int]] = None,
        teacher_norms: Optional[Sequence[nn.Module]] = None,
        foreground: Optional[str] = None,
        init_cfg: Union[dict, List[dict], None] = None,
    ) -> None:
        super().__init__(init_cfg)
        self.loss_weight = loss_weight
        self.foreground = foreground

    def forward(
        self,
        student_feats: Sequence[Tensor],
        teacher_feats: Sequence[Tensor],
        weights: Optional[Sequence[Tensor]] = None,
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            student_feats: Per level (N, c_i, H, W), fine to coarse.
            teacher_feats: Per level (N, d_i, H, W); detached here.
            weights: Per level (N, H, W), not negative. All 1 by default.

        Returns:
            Tensor: Scalar, already multiplied by ``loss_weight``.

        Raises:
            ValueError: If the levels differ in number or in N, H, W.
        """
        check_levels(student_feats, teacher_feats)
        given: Sequence[Optional[Tensor]] = weights or [None] * len(student_feats)
        with full_precision(student_feats[0]):
            losses = [
                self.level_loss(level, student, teacher.detach(), weight)
                for level, (student, teacher, weight) in enumerate(
                    zip(student_feats, teacher_feats, given)
                )
            ]
            total = self.sum_levels(losses, teacher_feats)
            return self.loss_weight * total / self.divisor(teacher_feats, given)

    def sum_levels(
        self, losses: Sequence[Tensor], teacher_feats: Sequence[Tensor]
    ) -> Tensor:
        """Return the sum over levels.

        Args:
            losses: Per level a scalar.
            teacher_feats: Per level (N, d_i, H, W).
        """
        return torch.stack(list(losses)).sum()

    def divisor(
        self, teacher_feats: Sequence[Tensor], weights: Sequence[Optional[Tensor]]
    ) -> Union[float, Tensor]:
        """Return what the sum over levels is divided by; 1 for most losses.

        Args:
            teacher_feats: Per level (N, d_i, H, W).
            weights: Per level (N, H, W), or None for all 1.
        """
        return 1.0

    @abstractmethod
    def level_loss(
        self, level: int, student: Tensor, teacher: Tensor, weight: Optional[Tensor]
    ) -> Tensor:
        """Compare the maps of one level.

        Args:
            level: Its index, fine to coarse.
            student: (N, c_i, H, W) in the dtype in which it was computed.
            teacher: (N, d_i, H, W), detached.
            weight: (N, H, W), or None for all 1.

        Returns:
            Tensor: Scalar, in fp32 or wider.
        """


def build_feature_loss(
    cfg: dict,
    in_channels: Sequence[int],
    out_channels: Sequence[int],
    teacher_norms: Optional[Sequence[nn.Module]] = None,
) -> FeatureLoss:
    """Build L_F for the maps that it will compare.

    Args:
        cfg (dict): Its config; what it sets by hand stays.
        in_channels (Sequence[int]): Channels c_i of the student's maps.
        out_channels (Sequence[int]): Channels d_i of the teacher's maps.
        teacher_norms (Sequence[nn.Module], optional): The norm that ends each
            map of the teacher before its activation, if there is one.

    Returns:
        FeatureLoss: The loss; with weight 0 its parameters are frozen, since
        DistributedDataParallel would wait for their gradients.

    Raises:
        TypeError: If it is no ``FeatureLoss``.
    """
    inferred = dict(
        in_channels=list(in_channels),
        out_channels=list(out_channels),
        teacher_norms=teacher_norms,
    )
    loss_class = class_of(cfg)
    if loss_class is not object and not issubclass(loss_class, FeatureLoss):
        raise TypeError(
            f'{loss_class.__name__} cannot be the feature_loss of the distiller: it '
            'is no subclass of frskd_mm.models.losses.FeatureLoss, which says what a '
            'comparison of maps is given. Outputs are compared by soft_label.'
        )
    loss = MODELS.build(cfg, default_args=inferred)
    if not loss.loss_weight:
        loss.requires_grad_(False)
    return loss


def check_levels(
    student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]
) -> None:
    """Require as many student as teacher maps, equal in N, H and W.

    Raises:
        ValueError: If the levels differ in number or in N, H, W.
    """
    if len(student_feats) != len(teacher_feats):
        raise ValueError(
            f'The student gave {len(student_feats)} feature maps and the '
            f'self-teacher {len(teacher_feats)}; they must pair up.'
        )
    for level, (student, teacher) in enumerate(zip(student_feats, teacher_feats)):
        if (student.shape[0], *student.shape[2:]) != (
            teacher.shape[0],
            *teacher.shape[2:],
        ):
            raise ValueError(
                f'Level {level}: student map {tuple(student.shape)} and '
                f'self-teacher map {tuple(teacher.shape)} differ in N, H or W.'
            )
