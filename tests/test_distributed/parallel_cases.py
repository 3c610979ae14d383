"""Models, batches and the training that two processes share.

Every process builds the same model and the same joined batch from one seed,
and takes its half of the images.
"""

import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import comparators
import torch
import toys
from in_float64 import default_dtype
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS
from test_detection import det_toys
from test_segmentation import seg_toys
from torch import Tensor, distributed, nn

WORLD_SIZE = 2
GN = dict(type='GN', num_groups=4)
KD_AND_AT = ('loss_kd', 'loss_at')


class Case(NamedTuple):
    """What is trained.

    Attributes:
        student: Config of the student.
        distiller: Config of the distiller.
        batch: Makes the joined batch.
        views: Images of a batch that belong together: 2 for pairs.
        terms: Parts of the names of the distillation terms of each step.
        synchronised: Whether the host's own terms average their denominators
            over processes. Where not, only the terms named above are trained.
        dtype: Of models, images and boxes. In float32 two processes, or another
            number of threads, sum in another order, and that decides on which side
            of a ReLU a value near 0 of the second step falls: gradients then differ
            by percents.
    """

    student: dict
    distiller: dict
    batch: Callable[[], Dict[str, Any]]
    views: int = 1
    terms: Tuple[Tuple[str, ...], ...] = ((*KD_AND_AT, 'self_teacher.'),) * 2
    synchronised: bool = True
    dtype: torch.dtype = torch.float64


class Step(NamedTuple):
    """What one step of training left."""

    losses: Dict[str, float]
    grads: Dict[str, Tensor]
    buffers: Dict[str, Tensor]


def _classifier(distiller: Optional[dict] = None, **kwargs: Any) -> Case:
    return Case(
        student=toys.toy_student_cfg(norm_cfg=GN),
        distiller=distiller or _frskd_cls(),
        batch=partial(toys.toy_batch, size=4),
        **kwargs,
    )


def _of_pairs(distiller: dict, partner: str, *terms: Tuple[str, ...]) -> Case:
    case = _classifier(distiller, views=2, terms=terms)
    return case._replace(batch=partial(comparators.pair_batch, partner=partner, size=6))


def _numbered() -> Dict[str, Any]:
    """Images that say which of the data set they are."""
    batch = toys.toy_batch(size=4)
    for index, sample in enumerate(batch['data_samples']):
        sample.set_metainfo(dict(sample_idx=3 * index))
    return batch


def _frskd_cls(**frskd: Any) -> dict:
    distiller = toys.toy_frskd_cfg(**frskd)
    distiller['neck']['norm_cfg'] = GN
    return distiller


def _fitnet() -> dict:
    return dict(type='frskd_mm.FitNetLoss', loss_weight=10.0, norm_cfg=GN)


def _segmentor(ignored: Tuple[float, ...], **frskd: Any) -> Case:
    def head(**kwargs: Any) -> dict:
        return seg_toys.head_cfg(norm_cfg=GN, dropout_ratio=0.0, **kwargs)

    student = seg_toys.student_cfg(
        decode_head=head(), auxiliary_head=head(in_channels=32, in_index=2)
    )
    student['backbone']['norm_cfg'] = GN
    distiller = seg_toys.frskd_cfg(**frskd)
    distiller['neck']['norm_cfg'] = GN

    def batch() -> Dict[str, Any]:
        images = [seg_toys.batch(size=1, ignored=part) for part in ignored]
        return dict(
            inputs=torch.cat([image['inputs'] for image in images]),
            data_samples=[image['data_samples'][0] for image in images],
        )

    return Case(student=student, distiller=distiller, batch=batch)


MANY_AND_FEW = (
    [[4, 6, 40, 44], [30, 20, 62, 60], [2, 40, 22, 62]],
    [[10, 10, 30, 34], [8, 24, 60, 60]],
    [[20, 24, 36, 44]],
    [],
)
SAME = MANY_AND_FEW[:2] * 2
NONE_ON_ONE = (*MANY_AND_FEW[:2], [], [])


def _detector(
    family: str,
    boxes: tuple = MANY_AND_FEW,
    foreground: str = 'boxes',
    **kwargs: Any,
) -> Case:
    student = det_toys.student_cfg(family)
    student['backbone']['norm_cfg'] = GN
    distiller = det_toys.frskd_cfg(
        beta=100.0,
        soft_label=dict(foreground=foreground, bbox_weight=1.0),
        # The only reduction with a denominator that depends on the data.
        feature_loss=dict(foreground=foreground, reduction='mean'),
    )

    def batch() -> Dict[str, Any]:
        data = det_toys.family_batch(family, boxes=boxes)
        # Brighter images, other confidences.
        data['inputs'][len(boxes) // 2 :] *= 4.0
        return data

    return Case(student=student, distiller=distiller, batch=batch, **kwargs)


def _lgd(family: str) -> Case:
    case = _detector(family, terms=(('loss_kd', 'loss_lgd'),) * 2, synchronised=False)
    case.distiller['feature_loss'] = dict(
        type='frskd_mm.LGDLoss', loss_weight=100.0, foreground='boxes'
    )
    return case


DELAYED = dict(begin=1, by_epoch=False)
ALONE = (('self_teacher.',),) * 2

CASES = {
    'classifier': _classifier(),
    'classifier-attached': _classifier(_frskd_cls(detach_inputs=False)),
    'classifier-no-weights': _classifier(_frskd_cls(alpha=0.0, beta=0.0), terms=ALONE),
    'classifier-off': _classifier(
        _frskd_cls(alpha=0.0, beta=0.0, self_teacher_loss_weight=0.0), terms=((), ())
    ),
    'classifier-delayed': _classifier(
        _frskd_cls(weight_schedule=DELAYED),
        terms=(('self_teacher.',), (*KD_AND_AT, 'self_teacher.')),
    ),
    # Adapters have parameters: their gradients are waited for from the start.
    'classifier-delayed-fitnet': _classifier(
        {**_frskd_cls(weight_schedule=DELAYED), 'feature_loss': _fitnet()},
        terms=(('self_teacher.',), ('loss_kd', 'loss_fitnet', 'self_teacher.')),
    ),
    'classifier-no-fitnet': _classifier(
        {**_frskd_cls(), 'feature_loss': dict(_fitnet(), loss_weight=0.0)},
        terms=(('loss_kd', 'self_teacher.'),) * 2,
    ),
    'classifier-consistency': _of_pairs(
        dict(type='frskd_mm.Consistency', threshold=0.5),
        'same_image',
        ('loss_consistency',),
        ('loss_consistency',),
    ),
    'classifier-cs-kd': _of_pairs(
        dict(type='frskd_mm.CSKD'), 'same_class', ('loss_cs_kd',), ('loss_cs_kd',)
    ),
    # Its other term compares the means of the views, which are each process's own.
    'classifier-ddgsd': _of_pairs(
        dict(type='frskd_mm.DDGSD', mmd_weight=0.0),
        'same_image',
        ('loss_kd',),
        ('loss_kd',),
    ),
    'classifier-dlb': _of_pairs(
        dict(type='frskd_mm.DLB'), 'same_image', (), ('loss_dlb',)
    ),
    # The processes share what they predicted, as buffers.
    'classifier-ps-kd': _classifier(
        dict(type='frskd_mm.PSKD', num_samples=12), terms=(('loss_ps_kd',),) * 2
    )._replace(batch=_numbered),
    'classifier-sad': _classifier(
        dict(type='frskd_mm.SAD', loss_weight=50.0), terms=(('loss_sad',),) * 2
    ),
    'classifier-sla': _classifier(
        dict(type='frskd_mm.SLA'), terms=(('loss_joint', 'loss_sla'),) * 2
    ),
    'classifier-frskd-sla': _classifier(
        dict(_frskd_cls(), type='frskd_mm.FRSKDSLA'),
        terms=((*KD_AND_AT, 'loss_joint', 'loss_sla', 'self_teacher.'),) * 2,
    ),
    'classifier-uskd': _classifier(
        dict(type='frskd_mm.USKD'), terms=(('loss_uskd_target', 'loss_uskd_weak'),) * 2
    ),
    'classifier-zipf-ls': _classifier(
        dict(type='frskd_mm.ZipfLS'), terms=(('loss_zipf',),) * 2
    ),
    'classifier-tf-kd': _classifier(
        dict(type='frskd_mm.TfKDReg'), terms=(('loss_tf_kd',),) * 2
    ),
    'fcn': _segmentor(ignored=(0.1, 0.3, 0.7, 0.9)),
    'fcn-all-ignored-on-one': _segmentor(ignored=(0.1, 0.3, 1.1, 1.1)),
    'fcn-delayed': _segmentor(
        ignored=(0.1, 0.3, 0.7, 0.9), weight_schedule=DELAYED
    )._replace(terms=(('self_teacher.',), (*KD_AND_AT, 'self_teacher.'))),
    # mmdetection's RetinaNet divides by each process's own number of positives.
    'retinanet': _detector('retinanet', boxes=SAME),
    'retinanet-boxes': _detector(
        'retinanet', terms=(KD_AND_AT,) * 2, synchronised=False
    ),
    'retinanet-confidence': _detector(
        'retinanet',
        foreground='confidence',
        terms=(KD_AND_AT,) * 2,
        synchronised=False,
    ),
    'retinanet-lgd': _lgd('retinanet'),
    'fcos': _detector('fcos'),
    'fcos-confidence': _detector('fcos', foreground='confidence'),
    'fcos-no-box-on-one': _detector('fcos', boxes=NONE_ON_ONE),
}

#: Detectors whose samples, noise or matches are drawn at random: two processes
#: only have to stay equal, whatever they hold.
RANDOM_CASES = {
    family: _detector(family, boxes=NONE_ON_ONE, dtype=torch.float32)
    for family in ('mask_rcnn', 'deformable_detr')
}


def build(case: Case) -> nn.Module:
    """Build the distilled model, all parts of which matter from the start.

    Norms that end a residual branch begin at 0, and classifiers near it.
    """
    torch.manual_seed(0)
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=case.student, distiller=case.distiller)
    )
    model.init_weights()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and name.endswith('weight'):
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith(('fc.weight', 'cls.weight', 'conv_seg.weight')):
            nn.init.normal_(parameter, std=0.3)
    return model.train()


def share_of(batch: Dict[str, Any], rank: int, views: int) -> Dict[str, Any]:
    """Return a process's part of the joined batch: equally many images."""
    samples = batch['data_samples']
    number = len(samples) // (views * WORLD_SIZE)
    taken = [
        (view * WORLD_SIZE + rank) * number + i
        for view in range(views)
        for i in range(number)
    ]
    return dict(inputs=batch['inputs'][taken], data_samples=[samples[i] for i in taken])


def train(case: Case, model: nn.Module, batch: Dict[str, Any]) -> List[Step]:
    """Train for two steps, the model being wrapped or not."""
    parse_losses = getattr(model, 'module', model).parse_losses
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.01
    )
    steps = []
    for step, terms in enumerate(case.terms):
        MessageHub.get_current_instance().update_info('iter', step)
        losses = model(**batch, mode='loss')
        total, logs = parse_losses(losses)
        if not case.synchronised:
            kept = {name: value for name, value in losses.items() if name in terms}
            # Times 0, so that every parameter has a gradient.
            total = 0.0 * total + parse_losses(kept)[0]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        steps.append(
            Step(
                losses={k: v.item() for k, v in logs.items() if 'loss' in k},
                grads={
                    name.replace('module.', '', 1): p.grad.clone()
                    for name, p in model.named_parameters()
                    if p.grad is not None
                },
                buffers={
                    name.replace('module.', '', 1): buffer.clone()
                    for name, buffer in model.named_buffers()
                },
            )
        )
    return steps


def train_jointly(name: str, noise: float = 0.0) -> List[Step]:
    """Train on the joined batch in this process.

    Args:
        name: Of the case.
        noise: Standard deviation of a relative change of every pixel.
    """
    case = CASES[name]
    with default_dtype(case.dtype):
        model, batch = build(case), case.batch()
        if noise:
            batch['inputs'] *= 1.0 + noise * torch.randn_like(batch['inputs'])
        return train(case, model, batch)


def run_worker(rank: int, names: List[str], folder: str) -> None:
    """Train every case on this process's part, one process group a case.

    Writes the steps, or the traceback, to ``folder/name.rank``.
    """
    torch.set_num_threads(1)
    for name in names:
        distributed.init_process_group(
            'gloo',
            init_method=f'file://{folder}/{name}.store',
            rank=rank,
            world_size=WORLD_SIZE,
            timeout=timedelta(minutes=10),
        )
        try:
            result: Any = _train_in_parallel(name, rank)
        except Exception:
            result = traceback.format_exc()
        finally:
            distributed.destroy_process_group()
        torch.save(result, Path(folder, f'{name}.{rank}'))


def _train_in_parallel(name: str, rank: int) -> List[Step]:
    case = {**CASES, **RANDOM_CASES}[name]
    with default_dtype(case.dtype):
        model = build(case)
        batch = share_of(case.batch(), rank, case.views)
        wrapped = MMDistributedDataParallel(module=model, find_unused_parameters=False)
        return train(case, wrapped, batch)
