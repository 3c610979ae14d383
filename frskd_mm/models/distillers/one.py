"""ONE: on-the-fly native ensemble of branches on the last stage."""

from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.model import BaseModel, BaseModule, ModuleList
from torch import Tensor, nn

from frskd_mm.models.tasks.base import as_levels
from frskd_mm.registry import MODELS
from frskd_mm.utils.random import isolated_rng
from frskd_mm.utils.recorder import Replayer

from .base import BaseDistiller, StudentLoss, name_student_loss, with_prefix


def find_last_stage(backbone: nn.Module, image: Tensor) -> str:
    """Return the name of the module that makes a backbone's last map.

    It is the outermost one whose output is the map, if need be after a ReLU.

    Args:
        backbone: Any backbone; left as it was.
        image: (1, 3, H, W), not constant.

    Raises:
        ValueError: If no module of the backbone gives its last map.
    """
    outputs: Dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda module, args, output: outputs.setdefault(name, output)

    names = [(name, module) for name, module in backbone.named_modules() if name]
    hooks = [module.register_forward_hook(keep(name)) for name, module in names]
    modes = {module: module.training for module in backbone.modules()}
    try:
        with torch.no_grad(), isolated_rng():
            backbone.eval()
            last = F.relu(as_levels(backbone(image))[-1])
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    for name, _ in names:
        output = outputs.get(name)
        if isinstance(output, Tensor) and output.shape == last.shape:
            if torch.equal(F.relu(output), last):
                return name
    raise ValueError(
        f'No module of {type(backbone).__name__} gives its last map, so ONE cannot '
        'branch there. Use a backbone with stages, such as a ResNet.'
    )


class StageBranch(BaseModule):
    """A second last stage of the student, and what follows it.

    Args:
        stage (nn.Module): The student's last stage; copied and initialised
            anew, not kept.
        twin_cfg (ConfigDict): Config of what follows the backbone.
        init_cfg (dict | list[dict], optional): The backbone's init_cfg.
    """

    def __init__(
        self,
        stage: nn.Module,
        twin_cfg: ConfigDict,
        init_cfg: Union[dict, List[dict], None],
    ) -> None:
        init_cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
        super().__init__([cfg for cfg in init_cfgs if cfg['type'] != 'Pretrained'])
        self.stage = deepcopy(stage)
        for module in self.stage.modules():
            reset = getattr(module, 'reset_parameters', None)
            if reset is not None:
                reset()
        self.twin = MODELS.build(twin_cfg)

    def forward(self, shared: Tensor) -> Tensor:
        """Map the last stage's input (N, C, h, w) to its output (N, C', H, W)."""
        # Where the stage ends with a ReLU, a second one changes nothing.
        return F.relu(self.stage(shared))


class Gate(BaseModule):
    """Weigh the branches by the image: pooling, linear, BN, ReLU, softmax.

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
        weight_schedule (dict, optional): r, see ``WeightSchedule``. Constant
            by default.
        input_size (tuple[int, int], optional): Image height and width of the
            dry forward.

    Raises:
        TypeError: If the student is not a classifier.
        ValueError: If there is nothing to branch.
    """

    classification_only = True

    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        soft_label: dict,
        num_branches: int = 3,
        weight_schedule: Optional[dict] = None,
        input_size: Optional[Tuple[int, int]] = None,
    ) -> None:
        super().__init__(student)
        if num_branches < 2:
            raise ValueError(f'num_branches of ONE must be >= 2, got {num_branches}.')
        height, width = input_size or self.task.input_size
        image = torch.randn(1, 3, height, width)
        self.stage_name = find_last_stage(student.backbone, image)
        self.soft_label = MODELS.build(soft_label)
        self.weight_schedule = MODELS.build(
            {'type': 'frskd_mm.WeightSchedule', **(weight_schedule or {})}
        )
        shapes = self.task.feature_shapes(student, 'backbone', input_size)
        channels = [channels for channels, *_ in shapes]
        with self._record_shared(student) as shared:
            self.task.feature_shapes(student, 'backbone', input_size)
        self.gate = Gate(shared[0].shape[1], num_branches)
        self.branches = ModuleList(
            StageBranch(
                stage=student.backbone.get_submodule(self.stage_name),
                twin_cfg=self.task.twin_cfg(
                    student_cfg, 'backbone', channels, channels
                ),
                init_cfg=student.backbone.init_cfg,
            )
            for _ in range(num_branches - 1)
        )

    def loss(
        self,
        student: BaseModel,
        student_loss: StudentLoss,
        inputs: Tensor,
        data_samples: Sequence[Any],
    ) -> Dict[str, Tensor]:
        """Compute the terms of all branches, see :class:`BaseDistiller`."""
        with self.task.record(student, 'backbone') as outputs, self._record_shared(
            student
        ) as inputs_of_stage:
            losses = name_student_loss(student_loss(inputs, data_samples))
        feats, shared = as_levels(outputs.last('feats')), inputs_of_stage[0]

        logits = [outputs.last('logits')]
        for index, branch in enumerate(self.branches, start=2):
            with self.task.record_twin(branch.twin, outputs) as branch_outputs:
                branch_losses = branch.twin.loss(
                    (*feats[:-1], branch(shared)), data_samples
                )
            losses.update(with_prefix(f'branch_{index}', branch_losses))
            logits.append(branch_outputs.last('logits'))

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
