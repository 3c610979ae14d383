"""What has to be the same with a method as without, and who trains what."""

from typing import Any, Dict, List, Sequence, Set

import numpy as np
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.distilled import DISTILLER_PREFIX

from .step import trainable

#: The terms of a method that train the student alone.
METHOD_TERMS = ('loss_kd', 'loss_at')
TEACHER_PREFIX = 'self_teacher.'
#: How far, relatively, the task loss may be from the plain model's.
TOLERANCE = 1e-5


def compare_weights(plain: Dict[str, Tensor], own: Dict[str, Tensor]) -> List[str]:
    """Require the student's weights to be the plain model's.

    Args:
        plain: Those of the plain model, by name.
        own: Those of the student.

    Returns:
        list[str]: What differs, in sentences.
    """
    problems = []
    strange = plain.keys() ^ own.keys()
    if strange:
        problems.append(
            f'{len(strange)} weights are not of both models, as {min(strange)}.'
        )
    others = [n for n in plain.keys() & own.keys() if not _equal(plain[n], own[n])]
    if others:
        problems.append(f'{len(others)} initial weights differ, as {min(others)}.')
    return problems


def check_terms(terms: Dict[str, float], plain: float) -> List[str]:
    """Require finite terms, those of the method above 0, and the plain task loss.

    Args:
        terms: Values by name, as they are logged.
        plain: What the plain model logs as its 'loss'.

    Returns:
        list[str]: What is not so, in sentences.
    """
    problems = [f'{n} is {value}.' for n, value in terms.items() if not _finite(value)]
    own = [name for name in METHOD_TERMS if name in terms]
    problems += [f'{name} is {terms[name]}.' for name in own if terms[name] <= 0]
    teacher = [v for name, v in terms.items() if name.startswith(TEACHER_PREFIX)]
    if teacher and sum(teacher) <= 0:
        problems.append("The self-teacher's own loss is 0.")
    task = terms.get('student.task_loss', plain)
    if not np.isclose(task, plain, rtol=TOLERANCE):
        problems.append(f'The task loss is {task}, but {plain} of the plain model.')
    return problems


def _finite(value: float) -> bool:
    return bool(np.isfinite(value))


def reach_of_terms(model: BaseModel, losses: Dict[str, Any]) -> Dict[str, Set[str]]:
    """Return which parameters the terms train, and leave the gradient of them all.

    Args:
        model: A distilled model.
        losses: Its terms; their graph is gone afterwards.

    Returns:
        dict[str, set[str]]: Names of parameters whose gradient is not zero, by
        'student', 'self_teacher' or the name of a term of the method.
    """
    groups: Dict[str, Dict[str, Any]] = {}
    for name, value in losses.items():
        if 'loss' in name:
            groups.setdefault(_group_of(name), {})[name] = value
    summed: Dict[str, Tensor] = {}
    reached = {}
    last = list(groups)[-1]
    for group, terms in groups.items():
        model.zero_grad(set_to_none=True)
        total, _ = model.parse_losses(terms)
        if total.requires_grad:
            total.backward(retain_graph=group != last)
        grads = {n: p.grad for n, p in trainable(model) if p.grad is not None}
        reached[group] = {name for name, grad in grads.items() if grad.any()}
        for name, grad in grads.items():
            summed[name] = summed[name].add_(grad) if name in summed else grad
    for name, parameter in trainable(model):
        parameter.grad = summed.get(name)
    return reached


def _group_of(term: str) -> str:
    if term.startswith(TEACHER_PREFIX):
        return 'self_teacher'
    return term if term in METHOD_TERMS else 'student'


def check_reach(model: BaseModel, reached: Dict[str, Set[str]]) -> List[str]:
    """Require that FRSKD's terms train what the method says, its inputs detached.

    Args:
        model: A model that is distilled with FRSKD.
        reached: From :func:`reach_of_terms`.

    Returns:
        list[str]: What is not so, in sentences.
    """
    problems = []
    for group, names in reached.items():
        is_teacher = group == 'self_teacher'
        wrong = {n for n in names if n.startswith(DISTILLER_PREFIX) != is_teacher}
        if wrong:
            problems.append(f'{group} trains {min(wrong)}, which it should not.')
        if not names:
            problems.append(f'{group} trains nothing.')
    part = f'{model.distiller.source}.'
    has_weights = any(name.startswith(part) for name, _ in trainable(model))
    at = reached.get('loss_at')
    if at and has_weights and not any(name.startswith(part) for name in at):
        problems.append(f'loss_at does not train the {model.distiller.source}.')
    return problems


def compare_answers(own: Sequence[Tensor], theirs: Sequence[Tensor]) -> List[str]:
    """Require that two models answer exactly alike.

    Args:
        own: Tensors that the distilled model returned.
        theirs: Those of the plain model with the exported weights.

    Returns:
        list[str]: What is not so, in sentences.
    """
    if not any(tensor.numel() for tensor in own):
        return ['There are no predictions to compare.']
    if len(own) != len(theirs) or not all(map(_equal, own, theirs)):
        return ['The exported student predicts otherwise.']
    return []


def _equal(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors are the same, where NaN is NaN."""
    if one.shape != two.shape:
        return False
    return bool(((one == two) | ((one != one) & (two != two))).all())
