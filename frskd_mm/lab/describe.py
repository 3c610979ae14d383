"""What a model is made of, which term trains what, and what a step costs."""

from contextlib import contextmanager
from functools import partial
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from frskd_mm.models.distilled import Distilled
from frskd_mm.utils.model import (
    build_model,
    count_parameters,
    dry_run,
    input_channels,
)

from .benchmark import Workload, choose_image_size, configure_arms, plan_arms
from .benchmark.flops import FORMULAS, count_flops
from .benchmark.measure import count
from .benchmark.plan import Arm
from .benchmark.rounds import Spread, paired_ratio, run_in_turns
from .benchmark.steps import TrainingStep
from .tables import markdown_table
from .trial import random_batch

#: Images of the batch that is tried: batch norm wants more than one.
BATCH = 2
#: Measured steps of each, and steps before them.
ROUNDS, WARMUP = 5, 2
#: What is no part of its own in the tables.
SKIPPED = ('data_preprocessor', 'weight_schedule')


class Part(NamedTuple):
    """A row of the table of parts."""

    name: str
    kind: str
    parameters: int
    #: Multiply-adds of one image's forward pass in training.
    macs: int


def parts_of(model: BaseModel) -> Dict[str, nn.Module]:
    """Return the parts that the tables have, by name, the student's first.

    These are the children of the model, and of the distiller and of its self-teacher
    instead of these.
    """
    parts: Dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if name == 'distiller':
            parts.update(_children(child, 'distiller'))
        elif name not in SKIPPED:
            parts[name] = child
    own = {name: part for name, part in parts.items() if not name.startswith('dist')}
    return {**own, **parts}


def _children(module: nn.Module, path: str) -> Dict[str, nn.Module]:
    parts: Dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if name in SKIPPED:
            continue
        full = f'{path}.{name}'
        if name in ('self_teacher', 'twin'):
            parts.update(_children(child, full))
        elif count_parameters(child):
            parts[full] = child
    return parts


class Description(NamedTuple):
    """What :func:`describe` finds."""

    name: str
    image_size: Tuple[int, int]
    levels: List[List[str]]
    parts: List[Part]
    #: What a training pass computes outside of layers, as attention's products do.
    other_macs: int
    #: Of a forward pass of the student as it is deployed.
    deployed_macs: int
    #: By term the names of the parts that it trains.
    terms: Dict[str, List[str]]
    #: Steps of the plain student and of the method: what ``count`` finds, and if it
    #: is measured ``seconds`` and ``ratio``.
    costs: List[Dict[str, Any]]
    is_measured: bool


def describe(
    cfg: Config,
    image_size: Optional[Tuple[int, int]] = None,
    measured: bool = False,
    batch_size: int = 8,
) -> Description:
    """Build a config's model, try it on random images, and say what it is.

    Args:
        cfg: Training config, of a plain or of a distilled model.
        image_size: Height and width; by default the config's.
        measured: Measure steps, too.
        batch_size: Images of a measured step.

    Raises:
        ValueError: If the config has no model or cannot train.
    """
    arms = plan_arms([cfg])
    size = image_size or choose_image_size(arms)
    arms = configure_arms(arms, size)
    arm = arms[-1]
    own = arm.cfg or cfg
    with DefaultScope.overwrite_default_scope(own.get('default_scope')):
        model = revert_sync_batchnorm(build_model(own))
        model.init_weights()
        model.train()
        trial = _Trial(model, arm, size)
        parts = parts_of(model)
        macs, all_macs = trial.macs(parts)
        deployed_macs = trial.deployed_macs()
        terms = trial.terms(parts)
    steps = _steps(arms, Workload(BATCH, size))
    costs = [dict(name=name, **count(step)) for name, step in steps.items()]
    if measured:
        _measure(costs, _steps(arms, Workload(batch_size, size)))
    return Description(
        name=arm.name,
        image_size=size,
        levels=_levels(model, size),
        parts=[
            Part(name, type(part).__name__, count_parameters(part), macs[name])
            for name, part in parts.items()
        ],
        terms=terms,
        other_macs=all_macs - sum(macs.values()),
        deployed_macs=deployed_macs,
        costs=costs,
        is_measured=measured,
    )


def _steps(arms: Sequence[Arm], workload: Workload) -> Dict[str, TrainingStep]:
    built = {arm.name: arm.build(workload) for arm in arms}
    return {n: step for n, step in built.items() if isinstance(step, TrainingStep)}


def _measure(costs: List[Dict[str, Any]], steps: Dict[str, TrainingStep]) -> None:
    """Add the median seconds of a step, and its ratio to the plain student's."""
    found = run_in_turns(steps, ROUNDS, WARMUP)
    plain = found[costs[0]['name']]
    for cost in costs:
        own = found[cost['name']]
        cost['seconds'] = Spread.of([seconds['total'] for seconds in own]).median
        cost['ratio'] = paired_ratio(own, plain).median


class _Trial:
    """A model with a random batch.

    Args:
        model: In training mode.
        arm: What it was built from.
        size: Height and width of the images.
    """

    def __init__(self, model: BaseModel, arm: Arm, size: Tuple[int, int]) -> None:
        self.model = model
        batch = random_batch(arm.cfg, BATCH, size, arm.num_classes)
        self.batch = model.data_preprocessor(batch, True)

    def losses(self) -> Dict[str, Any]:
        return self.model(**self.batch, mode='loss')

    def macs(self, parts: Dict[str, nn.Module]) -> Tuple[Dict[str, int], int]:
        """Return the multiply-adds of each part and of all, for one image."""
        found = dict.fromkeys(parts, 0)
        counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
        with torch.no_grad(), counter, _attributed(parts, counter, found):
            self.losses()
        macs = {name: flops // (2 * BATCH) for name, flops in found.items()}
        return macs, counter.get_total_flops() // (2 * BATCH)

    def deployed_macs(self) -> int:
        """Return the multiply-adds of the student's forward pass, for one image."""
        image, samples = self.batch['inputs'][:1], self.batch['data_samples'][:1]
        self.model.eval()
        try:
            with torch.no_grad():
                run = partial(self.model, image, samples, mode='tensor')
                return count_flops(run) // 2
        finally:
            self.model.train()

    def terms(self, parts: Dict[str, nn.Module]) -> Dict[str, List[str]]:
        """Return what each term trains: the parts that its gradient reaches."""
        owners = {
            id(parameter): name
            for name, part in parts.items()
            for parameter in part.parameters()
        }
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        found = {}
        for name, value in self.losses().items():
            if 'loss' not in name:
                continue
            total = sum(v.sum() for v in value) if isinstance(value, list) else value
            if not isinstance(total, Tensor) or not total.requires_grad:
                continue
            grads = torch.autograd.grad(
                total.sum(), parameters, retain_graph=True, allow_unused=True
            )
            reached = {
                owners[id(parameter)]
                for parameter, grad in zip(parameters, grads)
                if grad is not None and grad.any() and id(parameter) in owners
            }
            found[name] = [part for part in parts if part in reached]
        return found


@contextmanager
def _attributed(
    parts: Dict[str, nn.Module], counter: FlopCounterMode, found: Dict[str, int]
) -> Iterator[None]:
    """Add what layers compute to their part's share, within the block."""
    before: List[int] = []
    handles = []

    def begin(module: nn.Module, args: Any) -> None:
        before.append(counter.get_total_flops())

    for name, part in parts.items():

        def end(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            found[name] += counter.get_total_flops() - before.pop()

        for layer in part.modules():
            # Heads are not always called as modules, but their layers are.
            if not list(layer.children()):
                handles.append(layer.register_forward_pre_hook(begin))
                handles.append(layer.register_forward_hook(end))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _levels(model: BaseModel, size: Tuple[int, int]) -> List[List[str]]:
    """Return the rows of the table of levels: of F, and T where there is one."""
    distiller: Any = getattr(model, 'distiller', None)
    self_teacher: Any = getattr(distiller, 'self_teacher', None)
    if not isinstance(model, Distilled) or not hasattr(self_teacher, 'refine'):
        return []
    rows = []
    example = next(model.parameters())
    channels = input_channels(model, size)
    with dry_run(model):
        image = example.new_zeros(1, channels, *size)
        feats = distiller.task.extract_feats(model, distiller.levels, image)
        refined = self_teacher.refine(feats)
    for level, (feat, teacher) in enumerate(zip(feats, refined), start=1):
        shape = feat.shape[1:]
        stride = size[0] / shape[1]
        rows.append(
            [
                f'{level}',
                f'{stride:.3g}',
                'x'.join(map(str, shape)),
                'x'.join(map(str, teacher.shape[1:])),
            ]
        )
    return rows


def describe_text(found: Description) -> str:
    """Return the description as Markdown tables."""
    height, width = found.image_size
    sections = [f'# {found.name}, images of {height}x{width}']
    if found.levels:
        header = ['level', 'stride', 'student F (CxHxW)', 'self-teacher T (CxHxW)']
        sections.append('## Levels\n\n' + markdown_table([header, *found.levels]))
    deployed = [part for part in found.parts if not part.name.startswith('distiller')]
    header = ['part', 'class', 'parameters', 'multiply-adds an image', 'deployed']
    rows = [header]
    for part in found.parts:
        kept = 'yes' if part in deployed else 'no'
        rows.append([*part[:2], f'{part.parameters:,}', f'{part.macs:,}', kept])
    if found.other_macs:
        rows.append(['outside of layers', '', '', f'{found.other_macs:,}', ''])
    # A method may show the student each image several times, and two views of it.
    in_training = sum(part.macs for part in found.parts) + found.other_macs
    for name, chosen, macs in (
        ('in training', found.parts, in_training),
        ('deployed', deployed, found.deployed_macs),
    ):
        parameters = sum(part.parameters for part in chosen)
        rows.append([name, '', f'{parameters:,}', f'{macs:,}', ''])
    sections.append('## Parts\n\n' + markdown_table(rows))
    rows = [['term', 'trains'], *([k, ', '.join(v)] for k, v in found.terms.items())]
    sections.append('## Terms of the loss\n\n' + markdown_table(rows))
    sections.append('## A training step\n\n' + _cost_table(found))
    return '\n\n'.join(sections)


def _cost_table(found: Description) -> str:
    plain = found.costs[0]
    header = ['', 'parameters', 'FLOPs, plain = 1']
    rows = [header + ['seconds, plain = 1', 'seconds'] * found.is_measured]
    for cost in found.costs:
        row = [
            cost['name'],
            f'{cost["parameters_training"]:,}',
            f'{cost["step_flops"] / plain["step_flops"]:.2f}',
        ]
        if found.is_measured:
            row += [f'{cost["ratio"]:.2f}', f'{cost["seconds"]:.3f}']
        rows.append(row)
    note = (
        'FLOPs are of matrix products and convolutions; norms, activations and moving '
        'data take time, too, which --measure shows.'
    )
    return markdown_table(rows) + ('' if found.is_measured else f'\n\n{note}')
