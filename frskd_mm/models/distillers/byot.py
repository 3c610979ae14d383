"""BYOT: be your own teacher, with a classifier at every stage."""

from typing import Any, Dict, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModel, BaseModule, ModuleList, Sequential
from torch import Tensor

from frskd_mm.models.switches import Switches
from frskd_mm.models.tasks.levels import Levels, StageNames
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, at_least, check_arguments, one_of
from frskd_mm.utils.precision import at_least_fp32

from .base import BaseDistiller, with_prefix

HINTS = ('norm', 'squared')


class ShallowBranch(BaseModule):
    """The student, ended after one of its stages.

    Bottlenecks take the place of the later stages, one each: a 1x1 convolution
    to a quarter of the channels, a 3x3 one with the stage's stride and a 1x1
    one, each with BN and ReLU. What follows the backbone is built anew.

    Args:
        shapes (Sequence[tuple[int, ...]]): (C, H, W) of the student's levels.
        level (int): Last level that is the student's own.
        twin_cfg (ConfigDict): Config of what follows the backbone.
    """

    def __init__(
        self, shapes: Sequence[Tuple[int, ...]], level: int, twin_cfg: ConfigDict
    ) -> None:
        super().__init__()
        self.level = level
        self.bottlenecks = ModuleList(
            bottleneck(here[0], there[0], stride=max(1, round(here[1] / there[1])))
            for here, there in zip(shapes[level:], shapes[level + 1 :])
        )
        self.twin = MODELS.build(twin_cfg)

    def forward(self, feats: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Return the student's maps, those of later stages replaced."""
        outs = list(feats[: self.level + 1])
        for convs, feat in zip(self.bottlenecks, feats[self.level + 1 :]):
            out = convs(outs[-1])
            if out.shape[2:] != feat.shape[2:]:
                height, width = feat.shape[2:]
                out = F.adaptive_avg_pool2d(out, (height, width))
            outs.append(out)
        return tuple(outs)


def bottleneck(in_channels: int, out_channels: int, stride: int) -> Sequential:
    """1x1, strided 3x3 and 1x1 convolution, each with BN and ReLU."""
    middle, norm_cfg = max(1, out_channels // 4), dict(type='BN')
    return Sequential(
        ConvModule(in_channels, middle, 1, norm_cfg=norm_cfg),
        ConvModule(middle, middle, 3, stride=stride, padding=1, norm_cfg=norm_cfg),
        ConvModule(middle, out_channels, 1, norm_cfg=norm_cfg),
    )


@MODELS.register_module()
class BYOT(BaseDistiller):
    r"""Teach the shallow stages with the deepest one.

    The student ends after every stage once: bottlenecks replace the stages
    that follow, and a classifier q_i of its own scores the result f_i. With
    the student's output z and its last, pooled map f,

    .. math::
        L = L_{task}(z, y) + \sum_i \big[ (1 - \alpha) L_{task}(q_i, y)
            + \alpha L_{KD}(q_i, z) + \lambda \|f_i - f\| \big]

    z and f are detached in the sum. All terms train the backbone up to their
    stage, and their own branch. The branches are dropped after training.

    A branch is a twin of what follows the student's backbone, so segmentors
    and detectors get auxiliary heads of their own kind. The authors' final
    code differs in parts that the paper lacks: attention before the branches,
    a linear layer on the hints, no hint for the shallowest branch.

    Paper: Be Your Own Teacher, ICCV 2019, https://arxiv.org/abs/1905.08094
    Source: ArchipLab-LinfengZhang/pytorch-self-distillation-final@47ca93b,
    train.py

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        soft_label (dict): L_KD; its ``loss_weight`` is alpha. The authors do
            not scale by the temperature squared, as ``SoftLabelLoss`` does:
            their alpha 0.3 at temperature 3 is ``loss_weight=0.3 / 9``.
        label_weight (float): 1 - alpha, the weight of the branches' own task
            losses. Defaults to 0.7.
        hint_weight (float): Lambda. Defaults to 0.03.
        hint (str): 'norm', the L2 norm of the difference over N and C, the
            authors' code; it grows with the square root of N. 'squared', the
            paper's text: the squared L2 norm over C, averaged over N.
            Defaults to 'norm'.
        input_size (tuple[int, int], optional): Image height and width of the
            dry forward.
        stages (Sequence[str | int], optional): Which maps are read where the
            backbone returns one or none, see ``FRSKD``.

    Raises:
        ValueError: If the backbone gives a single level, or the hint is
            unknown.
    """

    reads_levels = True

    @check_arguments(
        label_weight=NOT_NEGATIVE,
        hint_weight=NOT_NEGATIVE,
        hint=one_of(*HINTS),
        input_size=at_least(1),
    )
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        soft_label: dict,
        label_weight: float = 0.7,
        hint_weight: float = 0.03,
        hint: str = 'norm',
        input_size: Optional[Tuple[int, int]] = None,
        stages: Optional[StageNames] = None,
    ) -> None:
        super().__init__(student)
        self.levels = self.task.find_levels(student, 'backbone', input_size, stages)
        shapes = self.levels.shapes
        check_num_levels(type(self).__name__, self.levels)
        self.soft_label = MODELS.build(soft_label)
        self.label_weight = label_weight
        self.hint_weight = hint_weight
        self.hint = hint
        channels = [channels for channels, *_ in shapes]
        self.branches = ModuleList(
            ShallowBranch(
                shapes,
                level,
                self.task.twin_cfg_on(self.levels, student_cfg, channels),
            )
            for level in range(len(shapes) - 1)
        )
        twins = [branch.twin for branch in self.branches]
        self._switches = [Switches(student, twin) for twin in twins]

    def before_forward(self, student: BaseModel) -> None:
        """Let the branches follow what hooks exchanged on the student."""
        for switches, branch in zip(self._switches, self.branches):
            switches.follow_parts(student, branch.twin)

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the terms of all branches, see :class:`BaseDistiller`."""
        deepest = self.run_student(student, inputs, data_samples, self.levels)
        losses = deepest.losses
        for level, branch in enumerate(self.branches):
            self._switches[level].follow(student, branch.twin)
            name, feats = f'branch_{level}', branch(deepest.feats)
            shallow = self.run_twin(branch.twin, feats, data_samples, deepest)
            losses.update(with_prefix(name, shallow.losses, factor=self.label_weight))
            if self.soft_label.loss_weight:
                losses[f'{name}.loss_kd'] = self.soft_label(
                    self.task.soft_labels(shallow, deepest, data_samples)
                )
            losses[f'{name}.loss_hint'] = self.hint_weight * self._hint(
                feats[-1], deepest.feats[-1].detach()
            )
        return losses

    def _hint(self, shallow: Tensor, deepest: Tensor) -> Tensor:
        """Distance of two globally average-pooled maps (N, C, H, W)."""
        difference = (at_least_fp32(shallow) - at_least_fp32(deepest)).mean(dim=(2, 3))
        if self.hint == 'squared':
            return difference.square().sum(dim=1).mean()
        return torch.linalg.vector_norm(difference)


def check_num_levels(name: str, levels: Levels) -> None:
    """Require at least two feature levels, and say which they are.

    Raises:
        ValueError: If there is one.
    """
    if len(levels.stages) < 2:
        raise ValueError(
            f'{name} compares stages of the backbone, which returns only '
            f'{len(levels.stages)}, and has no parts that give others. Use another '
            'backbone, or a method that reads logits alone.'
        )
    description = levels.describe()
    if description:
        print_log('\n  '.join([f'{name}:', *description]), logger='current')
