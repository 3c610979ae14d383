"""Label guidance: the self-teacher sees the ground truth."""

from typing import Any, Dict, List, Sequence, Tuple

import torch
from mmengine.model import BaseModel, BaseModule, ModuleList
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import (
    FRACTION,
    NOT_NEGATIVE,
    at_least,
    check_arguments,
)


@MODELS.register_module()
class LabelGuidance(BaseModule):
    r"""Draw the ground truth on maps and add its embedding to the neck's inputs.

    A self-teacher that sees what the student sees cannot know more. With g_i
    the ground truth drawn at level i's size, the neck refines

    .. math::
        F_i + E_i(g_i)

    E_i being two 1x1 convolutions with a ReLU between them, the second of which
    starts at 0, so the self-teacher begins unguided. Drawn are, by
    ``Task.draw_labels``, for detectors the class of the smallest box around a
    cell's centre, whether there is a box, and the distances to its four sides;
    for segmentors the class of each cell.

    So that the self-teacher goes on looking at the image, a share of the labels
    is left out and boxes are jittered, anew in each step, from torch's random
    generator. At test time there are no labels: ``as_self_teacher()`` predicts
    unguided.

    An extension of this project after label-guided self-distillation (LGD, AAAI
    2022, https://arxiv.org/abs/2109.11496, megvii-research/LGD@e03357d, whose
    encoder is a PointNet with cross attention) and label-assisted distillation
    (LAD, ECCV 2024, skyshoumeng/Label_Assisted_Distillation@cd08406).

    Args:
        in_channels (Sequence[int]): Channels c_i of the student's maps, given
            by the distiller.
        num_maps (int): How many maps the task draws a level, given by the
            distiller.
        embed_channels (int): Channels between the two convolutions.
            Defaults to 64.
        drop (float): Share of boxes, or of an image's classes, that is left
            out. Defaults to 0.2.
        jitter (float): Standard deviation of the boxes' sides, relative to
            width and height. Defaults to 0.1.
        identity (bool): Whether the class is drawn, or only where there is an
            object: False draws, as LAD does, a random value for each class of a
            label map, and no class of boxes. Defaults to True.

    Raises:
        ValueError: If an argument is out of range.
    """

    #: Whether a self-teacher can do without it where there are no labels.
    can_be_left_out = True

    @check_arguments(
        num_maps=at_least(1),
        embed_channels=at_least(1),
        drop=FRACTION,
        jitter=NOT_NEGATIVE,
    )
    def __init__(
        self,
        in_channels: Sequence[int],
        num_maps: int,
        embed_channels: int = 64,
        drop: float = 0.2,
        jitter: float = 0.1,
        identity: bool = True,
    ) -> None:
        super().__init__()
        self.drop = drop
        self.jitter = jitter
        self.identity = identity
        self.embeddings = ModuleList(
            nn.Sequential(
                nn.Conv2d(num_maps, embed_channels, 1),
                nn.ReLU(),
                nn.Conv2d(embed_channels, channels, 1),
            )
            for channels in in_channels
        )
        for embedding in self.embeddings:
            nn.init.zeros_(embedding[2].weight)
            nn.init.zeros_(embedding[2].bias)

    @classmethod
    def inferred(cls, task: Any, student: BaseModel, settings: dict) -> Dict[str, Any]:
        """Return the arguments that the distiller gives, beside ``in_channels``.

        Args:
            task: How to read the student.
            student: The student.
            settings: What the user set.

        Raises:
            TypeError: If the student's labels cannot guide.
        """
        identity = settings.get('identity', True)
        return dict(num_maps=task.num_drawn_maps(student, identity))

    def draw_boxes(
        self,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        num_classes: int,
        image_size: Tuple[int, int],
        sizes: Sequence[Tuple[int, int]],
    ) -> List[Tensor]:
        """Return what :meth:`forward` takes, see :func:`draw_boxes`."""
        return draw_boxes(boxes, labels, num_classes, image_size, sizes)

    def forward(
        self, feats: Sequence[Tensor], drawn: Sequence[Tensor]
    ) -> Tuple[Tensor, ...]:
        """Add the embedded ground truth.

        Args:
            feats: Per level (N, c_i, H_i, W_i).
            drawn: Per level (N, num_maps, H_i, W_i).

        Returns:
            tuple[Tensor]: Per level (N, c_i, H_i, W_i).
        """
        return tuple(
            feat + embed(labels.to(feat.dtype))
            for embed, feat, labels in zip(self.embeddings, feats, drawn)
        )


def draw_boxes(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    num_classes: int,
    image_size: Tuple[int, int],
    sizes: Sequence[Tuple[int, int]],
) -> List[Tensor]:
    """Draw boxes on the maps of all levels.

    A cell belongs to the smallest box around its centre. Its maps are the C
    classes (1 for the box's), one that is 1 in boxes, and the distances from
    the centre to the left, top, right and bottom side, relative to the box's
    width and height, so within [0, 1].

    Args:
        boxes: Per image (G, 4), x1, y1, x2, y2 in pixels; those without area, or
            all, may be missing.
        labels: Per image (G,).
        num_classes: C; 0 draws no class.
        image_size: Height and width of the padded batch.
        sizes: Height and width of every level.

    Returns:
        list[Tensor]: Per level (N, C + 5, H, W), fp32.
    """
    padded = nn.utils.rnn.pad_sequence([b.float() for b in boxes], batch_first=True)
    classes = nn.utils.rnn.pad_sequence(list(labels), batch_first=True)
    if not padded.shape[1]:  # no box in the whole batch
        shape = (len(boxes), num_classes + 5)
        return [padded.new_zeros(*shape, *size) for size in sizes]
    x1, y1, x2, y2 = (side[..., None, None] for side in padded.unbind(dim=-1))
    width, height = x2 - x1, y2 - y1
    drawn = []
    for rows, columns in sizes:
        y = torch.arange(rows, device=padded.device) + 0.5
        x = torch.arange(columns, device=padded.device) + 0.5
        y = (y * (image_size[0] / rows))[:, None]
        x = (x * (image_size[1] / columns))[None, :]
        inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)  # (N, G, H, W)
        area = torch.where(inside, width * height, torch.inf)
        smallest = area.argmin(dim=1, keepdim=True)  # (N, 1, H, W)
        region = inside.any(dim=1, keepdim=True).float()
        distances = [
            (distance / length.clamp(min=1e-6)).expand_as(inside).gather(1, smallest)
            for distance, length in (
                (x - x1, width),
                (y - y1, height),
                (x2 - x, width),
                (y2 - y, height),
            )
        ]
        maps = [region, *(region * distance.clamp(0, 1) for distance in distances)]
        if num_classes:
            label = classes[..., None, None].expand_as(inside).gather(1, smallest)
            values = torch.arange(num_classes, device=label.device)
            maps.insert(0, region * (label == values[:, None, None]))
        drawn.append(torch.cat(maps, dim=1))
    return drawn


def jitter_boxes(boxes: Tensor, std: float, image_size: Tuple[int, int]) -> Tensor:
    """Move every side of boxes (G, 4) by a random share of width or height.

    Args:
        boxes: x1, y1, x2, y2 in pixels.
        std: Standard deviation, relative to width and height.
        image_size: Height and width, to which boxes are clipped.
    """
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes + std * size * torch.randn_like(boxes)
    limits = moved.new_tensor(image_size[::-1]).repeat(2)
    moved = moved.clamp(min=0).minimum(limits)
    return torch.cat(
        [moved[:, :2].minimum(moved[:, 2:]), moved[:, :2].maximum(moved[:, 2:])], dim=1
    )


def draw_label_maps(
    labels: Tensor,
    num_classes: int,
    ignore_index: Any,
    sizes: Sequence[Tuple[int, int]],
    drop: float,
    identity: bool,
) -> List[Tensor]:
    """Draw label maps on the maps of all levels; ignored and left out cells are 0.

    Args:
        labels: (N, H', W').
        num_classes: C.
        ignore_index: Label that is left out.
        sizes: Height and width of every level.
        drop: Share of an image's classes that is left out.
        identity: Whether each class has a map of its own; else there is one map
            with a random value from [-1, 1] for each class.

    Returns:
        list[Tensor]: Per level (N, C or 1, H, W), fp32.
    """
    shape, device = (len(labels), num_classes), labels.device
    kept = torch.rand(shape, device=device) >= drop
    values = torch.rand(shape, device=device) * 2 - 1
    drawn = []
    for size in sizes:
        resized = nn.functional.interpolate(
            labels[:, None].float(), size=size, mode='nearest-exact'
        )
        classes = torch.arange(num_classes, device=device)[:, None, None]
        hot = (resized == classes) & kept[..., None, None]  # (N, C, H, W)
        if ignore_index is not None:
            hot = hot & (resized != ignore_index)
        if identity:
            drawn.append(hot.float())
        else:
            drawn.append((hot * values[..., None, None]).sum(dim=1, keepdim=True))
    return drawn
