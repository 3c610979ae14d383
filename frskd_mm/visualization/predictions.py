"""Predictions, drawn by the host libraries' own visualizers."""

from copy import deepcopy
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
from mmengine.model import BaseModel

from frskd_mm.models.losses.foreground import ROTATED
from frskd_mm.models.tasks import (
    ClassificationTask,
    DetectionTask,
    SegmentationTask,
    task_of,
)

from .figure import as_image, new_figure

#: Images are enlarged to at least so many pixels, so that labels can be read.
MIN_SIDE = 256
#: How many classes are drawn with their probabilities.
MAX_CLASSES = 5
#: Overlap from which two boxes of one class are the same.
SAME_BOX = 0.5


def draw_prediction(
    model: BaseModel,
    image: np.ndarray,
    sample: Any,
    score_thr: float = 0.3,
    truth: bool = False,
) -> np.ndarray:
    """Draw a prediction as the model's host library draws it.

    Args:
        model: Whose it is; has ``dataset_meta``.
        image: (H, W, 3) uint8 RGB, which the prediction refers to.
        sample: The host's data sample, on the CPU.
        score_thr: Boxes that score less are left out.
        truth: Draw the ground truth instead.

    Returns:
        np.ndarray: RGB, a whole multiple of the image's size.
    """
    drawers: Dict[type, Callable[..., np.ndarray]] = {
        ClassificationTask: _draw_class,
        DetectionTask: _draw_boxes,
        SegmentationTask: _draw_regions,
    }
    times = -(-MIN_SIDE // min(image.shape[:2]))
    large = np.repeat(np.repeat(image, times, axis=0), times, axis=1)
    draw = drawers[type(task_of(model))]
    return draw(large, _enlarged(sample, times), model.dataset_meta, score_thr, truth)


def _enlarged(sample: Any, times: int) -> Any:
    sample = deepcopy(sample)
    for name in ('pred_sem_seg', 'gt_sem_seg'):
        if name in sample:
            field = sample.get(name)
            data = field.data.repeat_interleave(times, -1).repeat_interleave(times, -2)
            setattr(sample, name, type(field)(data=data))
    for name in ('pred_instances', 'gt_instances'):
        if name in sample:
            field = sample.get(name)
            if 'bboxes' not in field:  # no annotations were loaded
                continue
            boxes = _boxes(field.bboxes)
            # What follows the first four is the angle of a rotated box.
            field.bboxes = torch.cat([boxes[:, :4] * times, boxes[:, 4:]], dim=1)
            if times == 1:
                continue
            masks = field.pop('masks', None)
            if isinstance(masks, torch.Tensor):
                large = masks.repeat_interleave(times, -1)
                field.masks = large.repeat_interleave(times, -2)
    return sample


def _boxes(boxes: Any) -> torch.Tensor:
    """Return boxes as a tensor (K, 4 or 5); data sets give classes of their own."""
    return getattr(boxes, 'tensor', boxes)


def _upright_boxes(boxes: Any) -> torch.Tensor:
    """Return boxes (K, 4), of rotated ones those around them."""
    boxes = _boxes(boxes)
    if boxes.shape[1] != ROTATED:
        return boxes
    centre, (width, height, angle) = boxes[:, :2], boxes[:, 2:].unbind(dim=1)
    cos, sin = angle.cos().abs(), angle.sin().abs()
    half = torch.stack([width * cos + height * sin, width * sin + height * cos], 1) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def _catch(visualizer: Any, draw: Callable[[], Any]) -> np.ndarray:
    """Return what a visualizer would hand to its backends."""
    caught: List[np.ndarray] = []
    visualizer.add_image = lambda name, image, step=0: caught.append(image)
    draw()
    return caught[-1]


def _draw_class(
    image: np.ndarray, sample: Any, meta: dict, score_thr: float, truth: bool
) -> np.ndarray:
    from mmpretrain.visualization import UniversalVisualizer

    visualizer = UniversalVisualizer()
    return _catch(
        visualizer,
        lambda: visualizer.visualize_cls(
            image,
            sample,
            classes=meta.get('classes'),
            draw_gt=truth,
            draw_pred=not truth,
        ),
    )


def _draw_regions(
    image: np.ndarray, sample: Any, meta: dict, score_thr: float, truth: bool
) -> np.ndarray:
    from mmseg.visualization import SegLocalVisualizer

    visualizer = SegLocalVisualizer(alpha=0.6)
    visualizer.dataset_meta = meta
    return _catch(
        visualizer,
        lambda: visualizer.add_datasample(
            '', image, sample, draw_gt=truth, draw_pred=not truth
        ),
    )


def _draw_boxes(
    image: np.ndarray, sample: Any, meta: dict, score_thr: float, truth: bool
) -> np.ndarray:
    visualizer = _box_visualizer(
        sample.get('gt_instances' if truth else 'pred_instances')
    )
    visualizer.dataset_meta = meta
    return _catch(
        visualizer,
        lambda: visualizer.add_datasample(
            '',
            image,
            sample,
            draw_gt=truth,
            draw_pred=not truth,
            pred_score_thr=score_thr,
        ),
    )


def _box_visualizer(instances: Any) -> Any:
    """Return what draws the boxes of instances."""
    if instances is not None and _boxes(instances.bboxes).shape[1] == ROTATED:
        from mmrotate.visualization import RotLocalVisualizer

        return RotLocalVisualizer()
    from mmdet.visualization import DetLocalVisualizer

    return DetLocalVisualizer()


def has_truth(sample: Any) -> bool:
    """Whether an annotation is there to be drawn."""
    if 'gt_instances' in sample:
        return len(sample.gt_instances) > 0
    return 'gt_label' in sample or 'gt_sem_seg' in sample


def draw_disagreement(
    model: BaseModel,
    image: np.ndarray,
    student: Any,
    teacher: Any,
    score_thr: float = 0.3,
) -> Tuple[np.ndarray, str]:
    """Draw where student and self-teacher disagree.

    Pixels of different classes are red. Of boxes those are left that the other has
    not: the student's red, the self-teacher's orange; rotated ones are compared, and
    drawn, by the upright boxes around them. Of classes the most likely ones are drawn
    with both probabilities.

    Args:
        model: The distilled model.
        image: (H, W, 3) uint8 RGB.
        student: The student's prediction.
        teacher: The self-teacher's.
        score_thr: Boxes that score less are left out.

    Returns:
        tuple[np.ndarray, str]: The picture, and a line that sums it up.
    """
    kind = type(task_of(model))
    if kind is ClassificationTask:
        meta = model.dataset_meta
        picture = _draw_scores(student, teacher, meta)
        return picture, _compare_classes(student, teacher, meta)
    if kind is SegmentationTask:
        ours, theirs = student.pred_sem_seg.data[0], teacher.pred_sem_seg.data[0]
        differ = (ours != theirs).numpy()
        picture = (0.5 * image).astype(np.uint8)
        picture[differ] = (0.4 * picture[differ] + 0.6 * np.array(RED)).astype(np.uint8)
        return picture, f'{100 * differ.mean():.1f} % of the pixels differ'
    return _compare_boxes(image, student, teacher, score_thr)


RED, ORANGE = (230, 30, 30), (245, 160, 20)


def class_name(meta: dict, label: int) -> str:
    """Return a class's name, or its number where names are unknown."""
    names = meta.get('classes')
    return str(names[label]) if names is not None and label < len(names) else str(label)


def _compare_classes(student: Any, teacher: Any, meta: dict) -> str:
    parts = []
    for owner, sample in (('student', student), ('self-teacher', teacher)):
        label = int(sample.pred_label[0])
        score = float(sample.pred_score[label])
        parts.append(f'{owner}: {class_name(meta, label)} ({score:.2f})')
    same = int(student.pred_label[0]) == int(teacher.pred_label[0])
    distance = 0.5 * (student.pred_score - teacher.pred_score).abs().sum()
    verdict = 'the same class' if same else 'different classes'
    return (
        f'{verdict}; {"; ".join(parts)}; '
        f'{100 * float(distance):.0f} % of the probability moved'
    )


def _draw_scores(student: Any, teacher: Any, meta: dict) -> np.ndarray:
    """Draw the probabilities of the classes that either thinks most likely."""
    likely = torch.max(student.pred_score, teacher.pred_score)
    labels = likely.topk(min(MAX_CLASSES, len(likely))).indices.flip(0).tolist()
    figure = new_figure(figsize=(2.56, 2.56), dpi=100)
    axes = figure.subplots()
    places = np.arange(len(labels))
    for offset, owner, sample, colour in (
        (0.2, 'student', student, '#4878b0'),
        (-0.2, 'self-teacher', teacher, '#d1793b'),
    ):
        scores = sample.pred_score[labels].numpy()
        axes.barh(places + offset, scores, height=0.4, color=colour, label=owner)
    axes.set_yticks(places, [class_name(meta, label)[:12] for label in labels])
    axes.tick_params(labelsize=7)
    axes.set(xlim=(0, 1))
    axes.legend(fontsize=7, loc='lower right')
    return as_image(figure)


def _compare_boxes(
    image: np.ndarray, student: Any, teacher: Any, score_thr: float
) -> Tuple[np.ndarray, str]:
    import cv2

    ours, theirs = (
        sample.pred_instances[sample.pred_instances.scores > score_thr]
        for sample in (student, teacher)
    )
    picture = (0.5 * image).astype(np.uint8)
    times = -(-MIN_SIDE // min(image.shape[:2]))
    picture = np.repeat(np.repeat(picture, times, axis=0), times, axis=1)
    counts = []
    for own, other, colour in ((ours, theirs, RED), (theirs, ours, ORANGE)):
        alone = unmatched(own, other)
        counts.append(len(alone))
        for index in alone:
            box = (_upright_boxes(own.bboxes)[index] * times).int().tolist()
            cv2.rectangle(picture, tuple(box[:2]), tuple(box[2:]), colour, 2)
    return picture, (
        f'{counts[0]} boxes of the student alone (red), {counts[1]} of the '
        f'self-teacher alone (orange)'
    )


def unmatched(own: Any, other: Any) -> List[int]:
    """Return which instances have no counterpart of their class and place.

    Args:
        own: Instances with ``bboxes`` and ``labels``.
        other: Those that they are looked for in.
    """
    ours, theirs = _upright_boxes(own.bboxes), _upright_boxes(other.bboxes)
    corner = torch.max(ours[:, None, :2], theirs[None, :, :2])
    end = torch.min(ours[:, None, 2:], theirs[None, :, 2:])
    shared = (end - corner).clamp(min=0).prod(dim=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (ours, theirs)]
    union = areas[0][:, None] + areas[1][None] - shared
    same = own.labels[:, None] == other.labels[None]
    found = (shared / union.clamp(min=1e-9) >= SAME_BOX) & same
    return [index for index, hit in enumerate(found.any(dim=1).tolist()) if not hit]
