"""One model: does it train with a method, and is it the plain model still?"""

import traceback
from copy import deepcopy
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.engine import load_config, student_config, wrap
from frskd_mm.engine.export import load_student, student_weights
from frskd_mm.lab.trial import without_weights
from frskd_mm.models.distilled import DISTILLER_PREFIX
from frskd_mm.models.distillers import FRSKD
from frskd_mm.utils.command import is_own_refusal, sentence
from frskd_mm.utils.model import count_parameters

from .compare import (
    check_reach,
    check_terms,
    compare_answers,
    compare_weights,
    reach_of_terms,
)
from .step import answers, build, image_sizes, lighten, losses_of, optimise, trainable

#: What a config can come to, best first.
WORKS, WITH_SETTING, REFUSED, UNCLEAR, CUT_OFF, NOT_PLAIN = OUTCOMES = (
    'works as it is',
    'works with a setting',
    'refused when it is built',
    'fails otherwise',
    'cut off here',
    'the plain model does not train here',
)
#: Makes a method compare features alone; our refusals of a head name it.
WITHOUT_SOFT_LABEL = {'model.distiller.soft_label.loss_weight': 0}

Note = Callable[[str], None]


class PlainModelError(Exception):
    """The plain model does not train; the cause says why."""


class PlainStep(NamedTuple):
    """What the plain model's first step has shown.

    Attributes:
        weights: The initial weights, by name.
        size: Height and width of the images.
        loss: What it logs as 'loss'.
        unused: The parameters that get no gradient.
    """

    weights: Dict[str, Tensor]
    size: int
    loss: float
    unused: Set[str]


def check_model(
    path: str, method: str = 'frskd', options: Optional[dict] = None, note: Note = print
) -> Dict[str, Any]:
    """Try a config as it is, and if it is refused, with what the refusal names.

    Args:
        path: Config, as ``frskd train`` takes it.
        method: Method to wrap with.
        options: Settings that the plain model has, too, by their dotted names.
        note: Called with what is being done, before it is.

    Returns:
        dict: ``outcome``, one of ``OUTCOMES``, and what was seen, see
        :func:`check_once`. ``setting`` is what was set in the method, and
        ``error`` why that, or why the outcome is not the best.
    """
    options = options or {}
    result = _check_safely(path, method, options, note)
    if result['outcome'] == REFUSED and 'soft_label' in result['error']:
        second = _check_safely(path, method, {**options, **WITHOUT_SOFT_LABEL}, note)
        if second['outcome'] == WORKS:
            second.update(outcome=WITH_SETTING, error=result['error'])
            return {**second, 'setting': WITHOUT_SOFT_LABEL}
    return result


def _check_safely(path: str, method: str, options: dict, note: Note) -> Dict[str, Any]:
    """Check a config once and say how it ended."""
    seen: Dict[str, Any] = {}
    try:
        problems = check_once(path, method, options, note, seen)
    except PlainModelError as error:
        why = _first_line(error.__cause__)
        return {**seen, 'outcome': NOT_PLAIN, 'error': why, 'plain_error': why}
    except Exception as error:
        seen['outcome'] = _kind_of(error, seen.get('phase', ''))
        seen['traceback'] = traceback.format_exc()
        return {**seen, 'error': _first_line(error)}
    if problems:
        return {**seen, 'outcome': UNCLEAR, 'error': ' '.join(problems)}
    return {**seen, 'outcome': WORKS, 'error': ''}


def _kind_of(error: Exception, phase: str) -> str:
    """Return the outcome that an error of the distilled model stands for."""
    if phase == 'build' and is_own_refusal(error):
        return REFUSED
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return CUT_OFF
    return UNCLEAR


def _first_line(error: Optional[BaseException]) -> str:
    assert error is not None
    text = sentence(error).strip() or type(error).__name__
    return text.splitlines()[0]


def check_once(
    path: str, method: str, options: dict, note: Note, seen: Dict[str, Any]
) -> List[str]:
    """Train a plain and a distilled model for a step, and compare them.

    Args:
        path: Config.
        method: Method to wrap with.
        options: Settings by their dotted names.
        note: Called with the phase that begins: plain, build, step or export.
        seen: Is filled with what was seen, until an error, if one arises:
            ``phase``, ``image_size``, ``student`` and ``distiller`` (numbers of
            parameters), ``terms`` (values by name), ``unused`` and
            ``unused_plain`` (parameters without a gradient), ``plain_error`` (why
            the plain model does not train, if it does not).

    Returns:
        list[str]: What is not as it should be, in sentences.

    Raises:
        PlainModelError: If the config cannot be read or the plain model not trained.
        Exception: Whatever the method's use ends in.
    """

    def begin(phase: str) -> None:
        seen['phase'] = phase
        note(phase)

    begin('plain')
    try:
        cfg = load_config(path, options)
    except Exception as error:
        raise PlainModelError from error
    without_weights(cfg.model)
    lighten(cfg)
    plain = _train_plain(cfg)
    if isinstance(plain, Exception):
        seen['plain_error'] = _first_line(plain)
    begin('build')
    cfg = _wrapped(cfg, method, plain)
    model = build(cfg)
    if isinstance(plain, Exception):
        raise PlainModelError from plain
    seen['image_size'] = plain.size
    problems = compare_weights(plain.weights, student_weights(model.state_dict()))
    plain.weights.clear()
    begin('step')
    problems += _check_step(model, cfg, plain, seen)
    begin('export')
    weights = student_weights(model.state_dict())
    plain_cfg = student_config(cfg)
    exported = load_student(plain_cfg, weights, path)
    return problems + compare_answers(
        answers(model, plain_cfg, plain.size), answers(exported, plain_cfg, plain.size)
    )


def _train_plain(cfg: Config) -> Any:
    """Train the plain model on the smallest images that it takes.

    Returns:
        PlainStep | Exception: What was seen, or why it does not train.
    """
    cfg = deepcopy(cfg)
    cfg.model.pop('distiller', None)
    try:
        model = build(cfg)
        weights = deepcopy(model.state_dict())
        sizes = image_sizes(cfg)
    except Exception as error:
        return error
    last: Optional[Exception] = None
    for size in sizes:
        model.load_state_dict(weights, strict=False)  # see load_student
        model.zero_grad()
        try:
            total, _ = model.parse_losses(losses_of(model, cfg, size))
            total.backward()
        except Exception as error:
            last = error
            continue
        if torch.isfinite(total):
            unused = {n for n, p in trainable(model) if p.grad is None}
            return PlainStep(weights, size, total.item(), unused)
        last = ValueError(f'The loss of the plain model is {total.item()}.')
    return last


def _wrapped(cfg: Config, method: str, plain: Any) -> Config:
    """Wrap a config, with all terms from the first step on.

    Raises:
        PlainModelError: If that fails and the plain model does not train either,
            unless we refuse it for a reason of our own.
    """
    try:
        cfg = wrap(cfg, method)
    except Exception as error:
        same = not is_own_refusal(error) or str(error) == str(plain)
        if isinstance(plain, Exception) and same:
            raise PlainModelError from plain
        raise
    cfg.model.get('distiller', {}).pop('weight_schedule', None)
    return cfg


def _check_step(
    model: BaseModel, cfg: Config, plain: PlainStep, seen: Dict[str, Any]
) -> List[str]:
    """Train the distilled model for a step; see :func:`check_once`."""
    losses = losses_of(model, cfg, plain.size)
    _, log = model.parse_losses(losses)
    seen['terms'] = {name: log[name].item() for name in log if 'loss' in name}
    problems = check_terms(seen['terms'], plain.loss)
    reached = reach_of_terms(model, losses)
    if isinstance(model.distiller, FRSKD):
        problems += check_reach(model, reached)
    trained = trainable(model)
    own = count_parameters(model.distiller)
    unused = {name for name, parameter in trained if parameter.grad is None}
    seen.update(
        student=count_parameters(model) - own,
        distiller=sum(p.numel() for n, p in trained if n.startswith(DISTILLER_PREFIX)),
        unused=sorted(unused - plain.unused),
        unused_plain=sorted(unused & plain.unused),
    )
    optimise(model)
    return problems


def share_of_working(records: Sequence[Dict[str, Any]]) -> float:
    """Return how many configs work as they are, of those whose plain model trains.

    Args:
        records: Results of :func:`check_model`.
    """
    tried = [r['outcome'] for r in records if 'plain_error' not in r]
    return tried.count(WORKS) / max(len(tried), 1)
