"""Comparing two data preprocessors, and getting from one's images to the other's."""

from typing import Any, Optional, Sequence, Tuple

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

#: Side of the images with which data preprocessors are asked what they do.
PROBE_SIZE = 8


class Renormalize(nn.Module):
    r"""Give a batch as another data preprocessor would have given it.

    A data preprocessor of OpenMMLab orders the channels and maps each by
    :math:`x = (v - m) / s`. So the other's image is a scaled and shifted one, with
    the channels in another order: exact but for rounding. What mmdet and mmseg padded
    gets the other's value. Mixing and resizing whole batches commute with it.

    Args:
        order (Tensor): (C,), which channel of the batch is the i-th one.
        scale (Tensor): (C,), factor on the i-th one.
        shift (Tensor): (C,), added afterwards.
        pad_value (float): What the other preprocessor pads with.
    """

    order: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self, order: Tensor, scale: Tensor, shift: Tensor, pad_value: float = 0.0
    ) -> None:
        super().__init__()
        self.pad_value = pad_value
        # Not saved: they follow from the configs.
        for name, value in dict(order=order, scale=scale, shift=shift).items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, inputs: Tensor, data_samples: Sequence[Any] = ()) -> Tensor:
        """Convert a batch.

        Args:
            inputs: Preprocessed images (N, C, H, W).
            data_samples: Their annotations. With ``pad_shape``, as mmdet's and mmseg's,
                their ``img_shape`` says where padding begins.

        Returns:
            Tensor: Of the same shape, never in the place of ``inputs``.
        """
        channels = inputs.shape[1]  # or a single one, of equal settings
        order, scale, shift = (
            value[:channels].to(inputs.device)
            for value in (self.order, self.scale, self.shift)
        )
        images = inputs[:, order.clamp(max=channels - 1)]
        images = images * scale[:, None, None] + shift[:, None, None]
        for image, sample in zip(images, data_samples):
            if 'pad_shape' in sample:  # set by preprocessors that pad
                height, width = sample.img_shape[:2]
                image[:, height:] = self.pad_value
                image[:, :, width:] = self.pad_value
        return images


def renormalizer(student: nn.Module, teacher: nn.Module) -> Optional[Renormalize]:
    """Return what turns the student's preprocessed images into the teacher's.

    The preprocessors are run on test images, so that it does not matter how each
    kind calls its settings.

    Args:
        student: The student's data preprocessor.
        teacher: The teacher's.

    Returns:
        Renormalize | None: None if both give the same.

    Raises:
        ValueError: If what one of them does is more than a change of each channel.
    """
    channels = max(_num_channels(student), _num_channels(teacher))
    order, scale, shift = _probe(student, 'student', channels)
    wanted_order, wanted_scale, wanted_shift = _probe(teacher, 'teacher', channels)
    same = zip((order, scale, shift), (wanted_order, wanted_scale, wanted_shift))
    if all(torch.equal(a, b) for a, b in same):
        return None
    # v = (x - shift) / scale, channel by channel of the loaded image.
    found = torch.argsort(order)[wanted_order]
    factor = wanted_scale / scale[found]
    return Renormalize(
        order=found,
        scale=factor.float(),
        shift=(wanted_shift - factor * shift[found]).float(),
        pad_value=_pad_value(teacher),
    )


def _pad_value(preprocessor: nn.Module) -> float:
    # mmsegmentation 1.2 calls it pad_val
    for name in ('pad_value', 'pad_val'):
        if hasattr(preprocessor, name):
            return float(getattr(preprocessor, name))
    return 0.0


def _num_channels(preprocessor: nn.Module) -> int:
    """Return how many channels the mean names; 3 if that says nothing."""
    mean = getattr(preprocessor, 'mean', None)
    return mean.numel() if isinstance(mean, Tensor) and mean.numel() > 1 else 3


def _probe(
    preprocessor: nn.Module, owner: str, channels: int
) -> Tuple[Tensor, Tensor, Tensor]:
    """Return which loaded channel each channel is, its factor and its shift.

    Raises:
        ValueError: If images of the preprocessor are no such change of each channel.
    """
    kind = type(preprocessor).__name__
    size = (channels, PROBE_SIZE, PROBE_SIZE)
    black = torch.zeros(size, dtype=torch.uint8)
    probes = [black, *(black.clone() for _ in range(channels))]
    for channel in range(channels):
        probes[1 + channel][channel] = 255
    ramp = torch.arange(black.numel()).remainder(256).to(torch.uint8).view(size)
    try:
        given = [_preprocess(preprocessor, image) for image in (*probes, ramp)]
        shift = given[0][:, 0, 0]
        matrix = torch.stack(
            [(image[:, 0, 0] - shift) / 255 for image in given[1:-1]], dim=1
        )
        order = matrix.abs().argmax(dim=1)
        scale = matrix.gather(1, order[:, None])[:, 0]
        expected = ramp[order] * scale[:, None, None] + shift[:, None, None]
        torch.testing.assert_close(given[-1], expected, rtol=1e-4, atol=1e-4)
        is_order = sorted(order.tolist()) == list(range(channels))
    except Exception as error:
        raise _not_comparable(owner, kind) from error
    if not is_order:
        raise _not_comparable(owner, kind)
    return order, scale, shift


@torch.no_grad()
def _preprocess(preprocessor: nn.Module, image: Tensor) -> Tensor:
    data = dict(inputs=[image], data_samples=[BaseDataElement()])
    (output,) = preprocessor(data, False)['inputs']
    return output[:, :PROBE_SIZE, :PROBE_SIZE].double().cpu()


def _not_comparable(owner: str, kind: str) -> ValueError:
    return ValueError(
        f'The data_preprocessor of the {owner}, {kind}, does more than to order, scale '
        "and shift the channels, so that the student's images cannot be turned into "
        "the teacher's. Give both models one of the usual kind; or, if the teacher is "
        "to see the student's images as they are, distiller.teacher=dict(...) without "
        'data_preprocessor.'
    )
