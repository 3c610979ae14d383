"""Wide ResNet for 32x32 images, as the method's authors use it."""

from typing import List, Optional, Sequence, Tuple, Union

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import FRACTION, at_least, check_arguments


class WideBasicBlock(BaseModule):
    """Pre-activation block: ReLU, conv, norm, ReLU, dropout, conv, shortcut.

    There is no norm before the first convolution, since a norm ends each
    group. Where the width changes, the shortcut reads the activated input.

    Args:
        in_channels (int): Input channels.
        out_channels (int): Output channels.
        stride (int): Stride of the first convolution and of the shortcut.
        drop_rate (float): Dropout probability between the convolutions.
        norm_cfg (dict): Norm layer config.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        drop_rate: float,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, out_channels, 3, stride=stride, padding=1, bias=False
        )
        self.norm = build_norm_layer(norm_cfg, out_channels)[1]
        self.dropout = nn.Dropout(drop_rate)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = (
            None
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H / stride, W / stride)."""
        active = F.relu(x)
        out = self.dropout(F.relu(self.norm(self.conv1(active))))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return shortcut + self.conv2(out)


@MODELS.register_module()
class WideResNet(BaseModule):
    """WRN-``depth``-``widen_factor`` with a BN after each of its three groups.

    The features are post-ReLU; the next group reads them before the ReLU.

    Paper: Wide Residual Networks, BMVC 2016, https://arxiv.org/abs/1605.07146
    Source: MingiJi/FRSKD@98b87e5, classification/models/wrn.py

    Args:
        depth (int): Number of layers, 6 * n + 4. Defaults to 16.
        widen_factor (int): Channel multiplier. Defaults to 2.
        in_channels (int): Image channels. Defaults to 3.
        drop_rate (float): Dropout between a block's convolutions.
            Defaults to 0.
        out_indices (Sequence[int]): Groups whose features are returned, out
            of 0, 1, 2. Their channels are 16, 32 and 64 times
            ``widen_factor``, their strides 1, 2 and 4. Defaults to (2, ).
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        init_cfg (dict | list[dict], optional): Defaults to He initialisation
            of the convolutions (normal, fan out) and 1 for the norms.

    Raises:
        ValueError: If ``depth`` or ``out_indices`` is impossible.
    """

    @check_arguments(
        widen_factor=at_least(1), in_channels=at_least(1), drop_rate=FRACTION
    )
    def __init__(
        self,
        depth: int = 16,
        widen_factor: int = 2,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        out_indices: Sequence[int] = (2,),
        norm_cfg: Optional[dict] = None,
        init_cfg: Union[dict, List[dict], None] = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                dict(
                    type='Kaiming',
                    layer='Conv2d',
                    mode='fan_out',
                    nonlinearity='relu',
                ),
                dict(type='Constant', layer='_BatchNorm', val=1),
            ]
        super().__init__(init_cfg)
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(
                f'depth of WideResNet must be 6 * n + 4 (10, 16, 22, 28, 40, ...), '
                f'got {depth}.'
            )
        if not out_indices or not set(out_indices) <= {0, 1, 2}:
            raise ValueError(
                'out_indices of WideResNet must be taken from (0, 1, 2), got '
                f'{tuple(out_indices)}.'
            )
        norm_cfg = norm_cfg or dict(type='BN')
        self.out_indices = tuple(out_indices)
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        channels = [16] + [base * widen_factor for base in (16, 32, 64)]
        self.groups = nn.ModuleList()
        for index in range(3):
            stride = 1 if index == 0 else 2
            blocks: List[nn.Module] = [
                WideBasicBlock(
                    channels[index] if block == 0 else channels[index + 1],
                    channels[index + 1],
                    stride if block == 0 else 1,
                    drop_rate,
                    norm_cfg,
                )
                for block in range((depth - 4) // 6)
            ]
            blocks.append(build_norm_layer(norm_cfg, channels[index + 1])[1])
            self.groups.append(Sequential(*blocks))
        # Modules, so that who watches the backbone run finds the activated maps.
        self.activations = nn.ModuleList(nn.ReLU() for _ in self.groups)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Extract features.

        Args:
            x: Images (N, 3, H, W).

        Returns:
            tuple[Tensor]: Post-ReLU features of the groups ``out_indices``.
        """
        x = self.stem(x)
        outs = []
        for index, (group, activation) in enumerate(zip(self.groups, self.activations)):
            x = group(x)
            active = activation(x)
            if index in self.out_indices:
                outs.append(active)
        return tuple(outs)
