"""What every comparator has to show, for its own test file."""

from typing import Any, Dict, Set

import torch
from mmengine.registry import MODELS
from toys import toy_batch, toy_student_cfg


def toy_model(distiller: Dict[str, Any], **backbone: Any) -> torch.nn.Module:
    """Build and initialise the toy student with a distiller."""
    student = toy_student_cfg()
    student['backbone'].update(backbone)
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=student, distiller=distiller)
    )
    model.init_weights()
    # ResNets start with zeros here, and every block as the identity.
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def trained_parts(model: torch.nn.Module, term: str, parts: Dict[str, str]) -> Set[str]:
    """Return the parts, named by their key's first letters, that a term trains."""
    model.zero_grad()
    model(**toy_batch(), mode='loss')[term].backward()
    trained = set()
    for name, param in model.named_parameters():
        if param.grad is not None and param.grad.abs().sum() > 0:
            trained.add(
                next(part for key, part in parts.items() if name.startswith(key))
            )
    return trained


def assert_all_parameters_are_trained(model: torch.nn.Module) -> None:
    """DistributedDataParallel waits for every one of them."""
    model.zero_grad()
    total, _ = model.parse_losses(model(**toy_batch(), mode='loss'))
    total.backward()
    assert torch.isfinite(total)
    without = [name for name, param in model.named_parameters() if param.grad is None]
    assert not without


def assert_leaves_a_plain_student(model: torch.nn.Module) -> None:
    """Without ``distiller.*`` the weights are the plain student's, strictly."""
    plain = MODELS.build(toy_student_cfg())
    plain.load_state_dict(
        {
            key: value
            for key, value in model.state_dict().items()
            if not key.startswith('distiller.')
        }
    )
    inputs = toy_batch()['inputs']
    scores = []
    for classifier in (model, plain):
        classifier.eval()
        with torch.no_grad():
            scores.append(classifier.head(classifier.extract_feat(inputs)))
    assert torch.equal(*scores)
