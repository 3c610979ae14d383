"""ONE: on-the-fly native ensemble of branches on the last stage."""

from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModel, BaseModule, ModuleList, Sequential
from torch import Tensor, nn

from frskd_mm.models.switches import Switches
from frskd_mm.models.tasks.base import as_levels
from frskd_mm.models.tasks.classification import predicted_logits
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import at_least, check_arguments
from frskd_mm.utils.model import count_parameters, dry_run, input_channels
from frskd_mm.utils.recorder import Replayer

from .base import BaseDistiller, with_prefix


def find_last_stage(
    backbone: nn.Module, image: Tensor, stage: Optional[str] = None
) -> Tuple[str, List[nn.Module]]:
    """Find the modules that make a backbone's last map.

    The last stage is the outermost module that turns one map into the last one
    and holds a convolution or linear layer. A norm, a pooling or a ReLU may lie
    between the two.

    Args:
        backbone: Any backbone; left as it was.
        image: (1, 3, H, W), not constant.
        stage: Name of the module to begin with instead.

    Returns:
        tuple: The last stage's name, and the modules that lead from its input to
        the last map, the last stage first.

    Raises:
        ValueError: If no such stage leads to the last map.
    """
    inputs: Dict[nn.Module, Tensor] = {}
    calls: List[Tuple[str, nn.Module, Tensor, Tensor]] = []

    # Maps are copied, since what follows may overwrite them.
    def enter(module: nn.Module, args: tuple) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor):
            inputs[module] = args[0].clone()

    def leave(name: str, module: nn.Module, args: tuple, output: Any) -> None:
        before = inputs.pop(module, None)
        if before is not None and isinstance(output, Tensor):
            calls.append((name, module, before, output.clone()))

    hooks = []
    for name, module in backbone.named_modules():
        if name:
            hooks.append(module.register_forward_pre_hook(enter))
            hooks.append(module.register_forward_hook(partial(leave, name)))
    try:
        with dry_run(backbone):
            target = as_levels(backbone(image))[-1]
    finally:
        for hook in hooks:
            hook.remove()
    modules: List[nn.Module] = []
    # From the last call to the first, in which a module comes before its parts.
    for name, module, before, after in reversed(calls):
        if stage is not None and stage.startswith(f'{name}.'):
            continue  # the stage is a part of it
        if torch.equal(after, target):
            modules.insert(0, module)
        elif torch.equal(F.relu(after), target):
            modules[:0] = [module, nn.ReLU()]
        else:
            continue
        has_weights = any(param.dim() > 1 for param in module.parameters())  # no norm
        if name == stage or (stage is None and has_weights):
            return name, modules
        target = before
    if stage is not None:
        raise ValueError(
            f'ONE cannot branch at {stage!r}: no module of that name leads, map by '
            f'map, to the last map of {type(backbone).__name__}. Set the stage of the '
            'distiller to one that does, or leave it out.'
        )
    raise ValueError(
        f'ONE cannot branch {type(backbone).__name__}: no module of it turns one map '
        'into its last one by a convolution or linear layer. Use a backbone with such '
        "a last stage, for example student.backbone=dict(type='ResNet', depth=50)."
    )


class StageBranch(BaseModule):
    """A second last stage of the student, and what follows it.

    Args:
        stage (list[nn.Module]): The student's last stage and what leads from it
            to the last map; copied and initialised anew, not kept.
        twin_cfg (ConfigDict): Config of what follows the backbone.
        init_cfg (dict | list[dict], optional): The backbone's init_cfg.
    """

    def __init__(
        self,
        stage: List[nn.Module],
        twin_cfg: ConfigDict,
        init_cfg: Union[dict, List[dict], None],
    ) -> None:
        init_cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
        super().__init__([cfg for cfg in init_cfgs if cfg['type'] != 'Pretrained'])
        self.stage = Sequential(*deepcopy(stage))
        for module in self.stage.modules():
            reset = getattr(module, 'reset_parameters', None)
            if reset is not None:
                reset()
        self.twin = MODELS.build(twin_cfg)

    def forward(self, shared: Tensor) -> Tensor:
        """Map the last stage's input (N, C, h, w) to a last map (N, C', H, W)."""
        return self.stage(shared)


class Gate(BaseModule):
    """Weigh the branches by the image: ReLU, pooling, linear, BN, ReLU, softmax.

    Args:
        in_channels (int): Channels of the shared map.
        num_branches (int): Number of branches.
    """

    def __init__(self, in_channels: int, num_branches: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, num_branches)
        self.bn = nn.BatchNorm1d(num_branches)

    def forward(self, shared: Tensor) -> Tensor:
        """Map the shared map (N, C, H, W) to weights (N, m) that sum to 1."""
        pooled = F.relu(shared).mean(dim=(2, 3))
        return F.relu(self.bn(self.fc(pooled))).softmax(dim=1)


@MODELS.register_module()
class ONE(BaseDistiller):
    r"""Teach every branch with the gated ensemble of all branches.

    The last stage and all that follows exist m times, on one shared trunk.
    Branch 1 is the student, with logits z_1; g is the gate's softmax over
    branches, computed from the trunk's pooled output.

    .. math::
        z_e &= \sum_i g_i z_i

        L &= \sum_i L_{task}(z_i, y) + L_{task}(z_e, y)
            + r \sum_i L_{KD}(z_i, z_e)

    L_KD trains its branch and the trunk only: z_e is detached there. r is the
    sigmoid ramp-up of ``weight_schedule``. Here r is exp(-5 (1 - t / 80)^2) at
    the end of epoch t, with 80 epochs; the source has t at its start. Each
    branch is initialised anew, as the backbone was. The gate's BN needs a
    batch of two or more.

    Paper: Knowledge Distillation by On-the-Fly Native Ensemble, NeurIPS 2018,
    https://arxiv.org/abs/1806.04606
    Source: Lan1991Xu/ONE_NeurIPS2018@54afde3, cifar_one.py,
    loss/kl_loss.py and models/cifar/resnet.py

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        soft_label (dict): L_KD; temperature 3 and weight 1 in the paper.
        num_branches (int): m. Defaults to 3.
        stage (str, optional): Name of the backbone's module that is the first in
            the branches. By default the last stage is found by a dry forward, and
            its name is logged.
        weight_schedule (dict, optional): r, see ``WeightSchedule``. Constant
            by default.
        input_size (tuple[int, int], optional): Image height and width of the
            dry forward.

    Raises:
        TypeError: If the student is not a classifier.
        ValueError: If there is nothing to branch.
    """

    classification_only = True

    @check_arguments(num_branches=at_least(2), input_size=at_least(1))
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        soft_label: dict,
        num_branches: int = 3,
        stage: Optional[str] = None,
        weight_schedule: Optional[dict] = None,
        input_size: Optional[Tuple[int, int]] = None,
    ) -> None:
        super().__init__(student, weight_schedule)
        height, width = input_size or self.task.input_size
        self.soft_label = MODELS.build(soft_label)
        shapes = self.task.feature_shapes(student, 'backbone', input_size)
        channels = [channels for channels, *_ in shapes]
        image = torch.randn(1, input_channels(student, (height, width)), height, width)
        self.stage_name, modules = find_last_stage(student.backbone, image, stage)
        with self._record_shared(student) as shared:
            self.task.feature_shapes(student, 'backbone', input_size)
        self.gate = Gate(shared[-1].shape[1], num_branches)
        self.branches = ModuleList(
            StageBranch(
                stage=modules,
                twin_cfg=self.task.twin_cfg(
                    student_cfg, 'backbone', channels, channels
                ),
                init_cfg=student.backbone.init_cfg,
            )
            for _ in range(num_branches - 1)
        )
        self._switches = [Switches(student, branch.twin) for branch in self.branches]
        size = count_parameters(self.branches[0].stage)
        print_log(
            f'ONE: {num_branches} branches from backbone.{self.stage_name} on, with '
            f'{size:,} of the {count_parameters(student.backbone):,} parameters of the '
            'backbone in each.',
            logger='current',
        )

    def before_forward(self, student: BaseModel) -> None:
        """Let the branches follow what hooks exchanged on the student."""
        for switches, branch in zip(self._switches, self.branches):
            switches.follow_parts(student, branch.twin)

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the terms of all branches, see :class:`BaseDistiller`."""
        with self._record_shared(student) as inputs_of_stage:
            student_pass = self.run_student(student, inputs, data_samples, 'backbone')
        losses, feats = student_pass.losses, student_pass.feats
        shared = inputs_of_stage[-1]

        logits = [predicted_logits(student_pass)]
        followed = zip(self._switches, self.branches)
        for index, (switches, branch) in enumerate(followed, start=2):
            switches.follow(student, branch.twin)
            branch_feats = (*feats[:-1], branch(shared))
            branch_pass = self.run_twin(
                branch.twin, branch_feats, data_samples, student_pass
            )
            losses.update(with_prefix(f'branch_{index}', branch_pass.losses))
            logits.append(predicted_logits(branch_pass))

        ensemble = (self.gate(shared)[:, None] * torch.stack(logits, dim=2)).sum(dim=2)
        # The head's own loss, on these logits instead of its own.
        head = {'logits': (student.head, 'forward')}
        with Replayer(head, {'logits': [ensemble]}):
            ensemble_losses = student.head.loss(feats, data_samples)
        losses.update(with_prefix('ensemble', ensemble_losses))

        schedule = self.weight_schedule()
        if schedule > 0:
            losses['loss_kd'] = schedule * sum(
                self.soft_label(branch_logits, ensemble) for branch_logits in logits
            )
        return losses

    @contextmanager
    def _record_shared(self, student: BaseModel) -> Iterator[List[Tensor]]:
        """Record, within the ``with`` block, what goes into the last stage."""
        recorded: List[Tensor] = []
        stage = student.backbone.get_submodule(self.stage_name)
        hook = stage.register_forward_pre_hook(
            lambda module, args: recorded.append(args[0])
        )
        try:
            yield recorded
        finally:
            hook.remove()
