"""LGD's self-teacher: boxes are encoded and interact with the student's maps."""

import logging
from typing import Any, Dict, NamedTuple, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn

from frskd_mm.models.necks.refining import RefiningNeck
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import FRACTION, NOT_NEGATIVE, at_least, check_arguments
from frskd_mm.utils.precision import at_least_fp32, full_precision

NUM_GROUPS = 1  # of the norms of maps, which are layer norms so
MANY_CLASSES = 400  # from which the encoder has more weights than most detectors


class Boxes(NamedTuple):
    """The boxes of a batch, image by image, T of them.

    Attributes:
        sides: (T, 4), x1, y1, x2, y2 in pixels, clipped to the image.
        labels: (T,), -1 for a box that stands for the whole image.
        image: (T,), the index of each box's image.
        image_size: Height and width of the padded batch.
    """

    sides: Tensor
    labels: Tensor
    image: Tensor
    image_size: Tuple[int, int]


@MODELS.register_module()
class LGDGuidance(BaseModule):
    r"""Replace the student's maps by what LGD knows of the labels and from the maps.

    A label encoder, a PointNet, embeds each box and its class. The maps' means over
    each box ask the embeddings of their image's boxes (cross attention), the
    answers are drawn at the boxes' places and added to that of a context box, the
    whole image:

    .. math::
        a_i &= \mathrm{Attention}(\mathrm{pool}(r_s(F_i)), r_l(e), r_l(e)) \\
        G_i &= \mathrm{ReLU}(\mathrm{conv}(\mathrm{draw}(W_o a_i)) + W_c a_i^{ctx})

    for level i. Together with ``LGDRefinement`` as neck, ``shared_head=True`` and
    ``LGDLoss`` it is the self-teacher of LGD. Nothing of it can be predicted
    without labels.

    What differs from the source: an image without boxes has its context box (there
    one of the first pixel, and no context); the embedding is as wide as the maps, for
    any width and number of classes (there 256 and 80); masks are not encoded. Weights
    and memory grow with the square of the classes, as they do in the source.

    Paper: LGD: Label-guided Self-distillation for Object Detection, AAAI 2022,
    https://arxiv.org/abs/2109.11496
    Source: megvii-research/LGD@e03357d, models/customized_detectors/dynamic_teacher

    Args:
        in_channels (Sequence[int]): Channels of the student's maps, all alike,
            given by the distiller.
        num_classes (int): C, given by the distiller.
        num_heads (int): Of the attention. Defaults to 8.
        drop (float): Share of boxes that is left out, as in ``LabelGuidance``.
            Defaults to 0.0, the source's.
        jitter (float): Standard deviation of the boxes' sides, relative to width
            and height. Defaults to 0.0, the source's.

    Raises:
        ValueError: If the maps differ in channels, or these do not split into heads.
    """

    #: Whether the class is drawn, as ``Task.draw_labels`` asks.
    identity = True
    #: Whether a self-teacher can do without it where there are no labels.
    can_be_left_out = False

    @check_arguments(
        num_classes=at_least(1),
        num_heads=at_least(1),
        drop=FRACTION,
        jitter=NOT_NEGATIVE,
    )
    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        num_heads: int = 8,
        drop: float = 0.0,
        jitter: float = 0.0,
    ) -> None:
        super().__init__()
        self.drop, self.jitter = drop, jitter
        channels = common_channels(in_channels)
        if channels % num_heads:
            raise ValueError(
                f'LGDGuidance has num_heads={num_heads}, but maps of {channels} '
                'channels cannot be split into as many. Set num_heads in the guidance '
                'of the distiller to a divisor.'
            )
        self.encoder = LabelEncoder(num_classes, channels)
        if num_classes > MANY_CLASSES:
            weights = self.encoder.transform.matrix.weight.numel()
            print_log(
                f'LGDGuidance of {num_classes} classes makes a matrix of '
                f'{4 + num_classes} x {4 + num_classes} for each box, by a layer of '
                f'{weights / 1e6:.0f} million weights. Train with --method '
                'label-guided, which grows with the classes alone, not their square.',
                logger='current',
                level=logging.WARNING,
            )
        self.label_proj = nn.Linear(channels, channels)
        self.feat_proj = nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = nn.MultiheadAttention(channels, num_heads)
        self.object_proj = nn.Linear(channels, channels)
        self.object_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.context_proj = nn.Linear(channels, channels)

    @classmethod
    def inferred(cls, task: Any, student: BaseModel, settings: dict) -> Dict[str, Any]:
        """Return the arguments that the distiller gives."""
        return dict(num_classes=task.num_box_classes(student))

    def draw_boxes(
        self,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        num_classes: int,
        image_size: Tuple[int, int],
        sizes: Sequence[Tuple[int, int]],
    ) -> Boxes:
        """Join the boxes of all images, to each image's the context box.

        Args:
            boxes: Per image (G, 4), x1, y1, x2, y2 in pixels.
            labels: Per image (G,).
            num_classes: C.
            image_size: Height and width of the padded batch.
            sizes: Height and width of every level.
        """
        height, width = image_size
        first = labels[0]
        context = first.new_tensor([[0, 0, width, height]])
        sides = torch.cat([s for own in boxes for s in (own.float(), context.float())])
        limits = sides.new_tensor([width - 1, height - 1]).repeat(2)
        counts = first.new_tensor([len(own) + 1 for own in labels])
        return Boxes(
            sides=sides.clamp(min=0).minimum(limits),
            labels=torch.cat(
                [s for own in labels for s in (own, first.new_tensor([-1]))]
            ),
            image=torch.arange(len(counts), device=first.device).repeat_interleave(
                counts
            ),
            image_size=image_size,
        )

    def forward(self, feats: Sequence[Tensor], boxes: Boxes) -> Tuple[Tensor, ...]:
        """Return what is to be refined.

        Args:
            feats: Per level (N, c, H_i, W_i).
            boxes: Those of the N images, from :meth:`draw_boxes`.

        Returns:
            tuple[Tensor]: Per level (N, c, H_i, W_i).
        """
        embedded = self.label_proj(self.encoder(boxes).to(feats[0].dtype))
        embedded = _normalised(embedded)
        others = boxes.image[:, None] != boxes.image
        return tuple(self._level(feat, boxes, embedded, others) for feat in feats)

    def _level(
        self, feat: Tensor, boxes: Boxes, embedded: Tensor, others: Tensor
    ) -> Tensor:
        """Return the map of one level, of embedded boxes (T, c)."""
        number, _, *size = feat.shape
        inside = cells_inside(boxes, (size[0], size[1])).to(feat.dtype)  # (T, H * W)
        projected = F.relu(F.group_norm(self.feat_proj(feat), NUM_GROUPS)).flatten(2)
        images = [boxes.image == image for image in range(number)]
        # The context box may have more cells than the largest number of fp16.
        with full_precision(feat):
            cells, values = at_least_fp32(inside), at_least_fp32(projected)
            pooled = torch.cat(
                [cells[own] @ maps.T for own, maps in zip(images, values)]
            ) / cells.sum(dim=1, keepdim=True).clamp(min=1)
        pooled = pooled.to(feat.dtype)
        # A batch of one whose queries and keys are the boxes.
        answers, _ = self.attention(
            *(value[:, None] for value in (pooled, embedded, embedded)),
            attn_mask=others,
            need_weights=False,
        )
        answers = answers[:, 0]
        is_context = boxes.labels < 0
        objects = self.object_proj(answers)
        objects_of = [own & ~is_context for own in images]
        drawn = torch.stack(
            [objects[own].T @ inside[own] for own in objects_of]
        ).unflatten(2, size)
        context = self.context_proj(answers[is_context])
        return F.relu(self.object_conv(drawn) + context[:, :, None, None])


class LabelEncoder(BaseModule):
    """Embed boxes and their classes, each beside the others of its image.

    A PointNet whose points are the boxes: both of its transforms are learnt
    matrices that depend on the point, and the maximum over an image's boxes joins
    them. Norms are layer norms without parameters.

    Source: megvii-research/LGD@e03357d, label_encoder.py and spatial_transformer.py

    Args:
        num_classes (int): C.
        out_channels (int): Of the embedding.
    """

    def __init__(self, num_classes: int, out_channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        described = 4 + num_classes
        self.transform = PointTransform(described)
        self.feat_transform = PointTransform(64)
        self.local = nn.Linear(described, 64)
        self.middle = nn.Linear(64, 128)
        self.wide = nn.Linear(128, 1024)
        self.joint = nn.Linear(64 + 1024, out_channels)

    def forward(self, boxes: Boxes) -> Tensor:
        """Return the embeddings (T, out_channels) of T boxes."""
        described = self.describe(boxes).to(self.local.weight.dtype)
        local = _normalised(self.local(self.transform(described)))
        local = self.feat_transform(local)
        points = _normalised(self.wide(_normalised(self.middle(local))))
        number = int(boxes.image[-1]) + 1
        image = boxes.image[:, None].expand_as(points)
        joined = points.new_zeros(number, points.shape[1]).scatter_reduce(
            0, image, points, 'amax', include_self=False
        )
        return _normalised(self.joint(torch.cat([local, joined[boxes.image]], dim=1)))

    def describe(self, boxes: Boxes) -> Tensor:
        """Return sides and one-hot classes (T, 4 + C), all from -1 to 1."""
        height, width = boxes.image_size
        sides = boxes.sides / boxes.sides.new_tensor([width, height] * 2)
        classes = torch.arange(self.num_classes, device=boxes.labels.device)
        hot = (boxes.labels[:, None] == classes).to(sides.dtype)
        return torch.cat([sides, hot], dim=1) * 2 - 1


class PointTransform(BaseModule):
    """Multiply each point by a matrix that depends on it.

    Args:
        channels (int): k, of the points.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, 64, 128, 1024, 512, 256)
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(widths, widths[1:])
        )
        self.matrix = nn.Linear(widths[-1], channels * channels)

    def forward(self, points: Tensor) -> Tensor:
        """Return the transformed points (T, k) of points (T, k)."""
        hidden = points
        for layer in self.layers:
            hidden = _normalised(layer(hidden))
        matrix = self.matrix(hidden).unflatten(1, (points.shape[1], -1))
        return torch.einsum('tk,tkl->tl', points, matrix)


@MODELS.register_module()
class LGDRefinement(RefiningNeck):
    """LGD's last three 3x3 convolutions, the same for all levels, with layer norms.

    Source: megvii-research/LGD@e03357d, dynamic_teacher.py (``refinement_module``)

    Args:
        in_channels (Sequence[int]): Channels of the maps, all alike, given by the
            distiller.

    Raises:
        ValueError: If the maps differ in channels.
    """

    @check_arguments()
    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        channels = common_channels(in_channels)
        self.in_channels = self.out_channels = [*in_channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)
        )

    def forward(self, feats: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Refine maps (N, c, H_i, W_i), per level."""
        return tuple(map(self._refine, feats))

    def _refine(self, feat: Tensor) -> Tensor:
        for index, conv in enumerate(self.convs):
            feat = F.group_norm(conv(F.relu(feat) if index else feat), NUM_GROUPS)
        return feat


def common_channels(in_channels: Sequence[int]) -> int:
    """Return the channels that all maps have.

    Raises:
        ValueError: If they differ.
    """
    if len(set(in_channels)) != 1:
        raise ValueError(
            f'LGD reads maps of one width, but these have {[*in_channels]} channels. '
            "Refine those of an FPN: source='neck' of the distiller. A student whose "
            'neck gives such maps, or that has none, trains with --method '
            'label-guided, which takes any widths.'
        )
    return in_channels[0]


def cells_inside(boxes: Boxes, size: Tuple[int, int]) -> Tensor:
    """Return which cells of a map lie in each box, as the source decides it.

    Cell (row, column) is a point at these coordinates, without half a cell.

    Args:
        boxes: T boxes.
        size: Height and width of the map.

    Returns:
        Tensor: Boolean (T, H * W).
    """
    scale = [to / of for to, of in zip(size, boxes.image_size)]
    x1, y1, x2, y2 = (
        boxes.sides * boxes.sides.new_tensor([scale[1], scale[0]] * 2)
    ).unbind(dim=1)
    inside = []
    for low, high, cells in ((y1, y2, size[0]), (x1, x2, size[1])):
        places = torch.arange(cells, device=low.device)
        distance = ((low + high)[:, None] * 0.5 - places).abs()
        # 0 / 0 of a box without extent is in none.
        inside.append(distance / (high - low)[:, None] <= 0.5)
    rows, columns = inside
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)


def _normalised(values: Tensor) -> Tensor:
    """Apply a layer norm without parameters, and a ReLU."""
    return F.relu(F.layer_norm(values, values.shape[-1:]))
