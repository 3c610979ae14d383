"""What the tests of the comparators share."""

from typing import Any, Dict, List, Optional

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


def pair_batch(partner: str, size: int = 4, **sizes: int) -> Dict[str, Any]:
    """Random images and labels, then their partners, as ``collate_pairs`` gives."""
    first, second = toy_batch(size, **sizes), toy_batch(size, **sizes)
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


def cross_entropy(logits: Tensor, data_samples: List[Any]) -> Tensor:
    return F.cross_entropy(logits, labels_of(data_samples))
