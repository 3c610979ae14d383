"""What the tests of the comparators share."""

from copy import deepcopy
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from toys import toy_batch, toy_student_cfg


def distilled(distiller: dict, student: Optional[dict] = None) -> nn.Module:
    """Build and initialise a toy student with a distiller, in training mode."""
    model = MODELS.build(
        dict(
            type='frskd_mm.Distilled',
            student=student or toy_student_cfg(),
            distiller=distiller,
        )
    )
    model.init_weights()
    # The head's initial weights (std 0.01) would make all terms alike.
    nn.init.normal_(model.head.fc.weight, std=0.3)
    return model.train()


def pair_batch(partner: str, size: int = 4) -> Dict[str, Any]:
    """Random images and labels, then their partners, as ``collate_pairs`` gives."""
    first, second = toy_batch(size), toy_batch(size)
    for sample in second['data_samples']:
        sample.set_metainfo(dict(partner=partner))
    return dict(
        inputs=torch.cat([first['inputs'], second['inputs']]),
        data_samples=first['data_samples'] + second['data_samples'],
    )


def labels_of(data_samples: List[Any]) -> Tensor:
    return torch.cat([sample.gt_label for sample in data_samples])


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """The student's logits, one training-mode pass."""
    return model.head.fc(model.backbone(images)[-1].mean(dim=(2, 3)))


def kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of logits, averaged over N, loop by loop."""
    total = 0.0
    for t, s in zip(teacher, student):
        p = torch.exp(t / temperature) / torch.exp(t / temperature).sum()
        q = torch.exp(s / temperature) / torch.exp(s / temperature).sum()
        total = total + (p.detach() * (p.detach().log() - q.log())).sum()
    return temperature**2 * total / len(teacher)


def assert_parity(
    model: nn.Module,
    batch: Dict[str, Any],
    reference: Callable[[nn.Module, Tensor, List[Any]], Dict[str, Tensor]],
) -> None:
    """Require equal terms, gradients and batch statistics of a reference.

    ``reference`` gets a copy of the model, the images and the annotations, and
    returns the terms.
    """
    copy = deepcopy(model)
    losses = model.loss(**batch)
    expected = reference(copy, batch['inputs'], batch['data_samples'])
    optimised = {name: value for name, value in losses.items() if 'loss' in name}
    assert optimised.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            optimised[name],
            value,
            rtol=1e-4,
            atol=1e-5,
            msg=lambda m, n=name: f'{n}: {m}',
        )
    sum(optimised.values()).backward()
    sum(expected.values()).backward()
    for (name, ours), theirs in zip(model.named_parameters(), copy.parameters()):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(
                ours.grad,
                theirs.grad,
                rtol=1e-3,
                atol=1e-4,
                msg=lambda m, n=name: f'{n}: {m}',
            )
    for (name, ours), theirs in zip(model.named_buffers(), copy.buffers()):
        if 'running' in name:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def parts_reached(model: nn.Module, term: Tensor) -> Set[str]:
    """Parts of the model with a non-zero gradient of a term."""
    model.zero_grad()
    term.backward(retain_graph=True)
    return {
        _part(name)
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }


def _part(name: str) -> str:
    owner, _, rest = name.partition('.')
    return rest.partition('.')[0] if owner == 'distiller' else owner


def plain_prediction(model: nn.Module, images: Tensor) -> Tuple[Tensor, Tensor]:
    """Scores of the distilled model and of the plain host's, loaded strictly."""
    plain = MODELS.build(toy_student_cfg()).eval()
    weights = model.state_dict()
    plain.load_state_dict(
        {k: v for k, v in weights.items() if not k.startswith('distiller.')},
        strict=True,
    )
    model.eval()
    with torch.no_grad():
        ours, theirs = model.predict(images), plain.predict(images)
    return (
        torch.stack([sample.pred_score for sample in ours]),
        torch.stack([sample.pred_score for sample in theirs]),
    )


def cross_entropy(logits: Tensor, data_samples: List[Any]) -> Tensor:
    return F.cross_entropy(logits, labels_of(data_samples))
