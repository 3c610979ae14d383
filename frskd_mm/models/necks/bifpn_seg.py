"""The light BiFPN of the authors' segmentation model."""

from typing import List, Optional, Sequence, Tuple, Union

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, ModuleList
from torch import Tensor

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import at_least, check_arguments

from .bifpn import check_in_channels, check_maps
from .refining import RefiningNeck


class BiFPNSegLayer(BaseModule):
    """One top-down and one bottom-up pass over equally wide levels.

    Each node is a plain sum, a 1x1 depthwise convolution, a norm and an
    activation.

    Args:
        channels (int): Channels of every level.
        num_levels (int): Number of levels.
        bottom_up (bool): Whether the bottom-up pass follows.
        norm_cfg (dict): Norm layer config.
        act_cfg (dict): Activation config.
    """

    def __init__(
        self,
        channels: int,
        num_levels: int,
        bottom_up: bool,
        norm_cfg: dict,
        act_cfg: dict,
    ) -> None:
        super().__init__()

        def nodes(number: int) -> ModuleList:
            return ModuleList(
                ConvModule(
                    channels,
                    channels,
                    1,
                    groups=channels,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                )
                for _ in range(number)
            )

        self.top_down = nodes(num_levels)
        self.bottom_up = nodes(num_levels - 1) if bottom_up else None

    def forward(self, feats: Sequence[Tensor]) -> List[Tensor]:
        """Refine maps (N, C, H_i, W_i), fine to coarse, to the same shapes."""
        up = [self.top_down[-1](feats[-1])]
        for feat, node in zip(reversed(feats[:-1]), reversed([*self.top_down][:-1])):
            up.insert(0, node(feat + _upsample(up[0], feat)))
        if self.bottom_up is None:
            return up
        outs = [up[0]]
        for feat, p, node in zip(feats[1:], up[1:], self.bottom_up):
            down = F.interpolate(outs[-1], size=feat.shape[2:], mode='nearest')
            outs.append(node(feat + p + down))
        return outs


@MODELS.register_module()
class BiFPNSeg(RefiningNeck):
    r"""Stacked light BiFPN layers, the self-teacher of the published recipe.

    With DW(x) = ReLU(BN(1x1 depthwise convolution of x)), a layer computes
    for n equally wide levels, fine to coarse,

    .. math::
        P_n &= DW(F_n), \quad P_i = DW(F_i + Up(P_{i+1}))

        T_1 &= P_1, \quad T_i = DW(F_i + P_i + Down(T_{i-1}))

    Up is bilinear and Down nearest, both to the target's size. The last layer
    may end with the top-down pass (T_i = P_i): a classifier that reads the
    finest level alone would leave its bottom-up pass without a gradient.

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, segmentation/utils/BiFPN.py

    Args:
        in_channels (Sequence[int]): Channels of the input maps, all equal.
            Refined maps have as many; readable as ``out_channels``.
        num_layers (int): Stacked layers. Defaults to 2.
        last_bottom_up (bool): Whether the last layer has a bottom-up pass.
            Defaults to False.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation. Defaults to ``dict(type='ReLU')``.
        init_cfg (dict | list[dict], optional): Initialisation config.

    Raises:
        ValueError: If there are fewer than two levels, they differ in
            channels, or ``num_layers`` is not positive.
    """

    @check_arguments(in_channels=at_least(1), num_layers=at_least(1))
    def __init__(
        self,
        in_channels: Sequence[int],
        num_layers: int = 2,
        last_bottom_up: bool = False,
        norm_cfg: Optional[dict] = None,
        act_cfg: Optional[dict] = None,
        init_cfg: Union[dict, List[dict], None] = None,
    ) -> None:
        super().__init__(init_cfg)
        check_in_channels('BiFPNSeg', in_channels)
        if len(set(in_channels)) != 1:
            raise ValueError(
                'BiFPNSeg adds maps of different levels, so all in_channels must '
                f'be equal, got {list(in_channels)}. Use BiFPN or BiFPNc for these '
                'maps.'
            )
        self.in_channels = list(in_channels)
        self.out_channels = list(in_channels)
        self.layers = ModuleList(
            BiFPNSegLayer(
                in_channels[0],
                len(in_channels),
                bottom_up=last_bottom_up or i < num_layers - 1,
                norm_cfg=norm_cfg or dict(type='BN'),
                act_cfg=act_cfg or dict(type='ReLU'),
            )
            for i in range(num_layers)
        )

    def forward(self, feats: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Refine maps (N, C, H_i, W_i), fine to coarse, to the same shapes.

        Raises:
            ValueError: If the maps' number or channels are not ``in_channels``.
        """
        check_maps('BiFPNSeg', feats, self.in_channels)
        for layer in self.layers:
            feats = layer(feats)
        return tuple(feats)


@MODELS.register_module()
class FPNBiFPNSeg(BaseModule):
    """P2 .. P7 of a backbone through :class:`BiFPNSeg`, the published student.

    The backbone's four maps get laterals (1x1) and an additive top-down path;
    two 3x3 stride-2 convolutions add P6 and P7.

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, segmentation/utils/efficientdet.py

    Args:
        in_channels (Sequence[int]): Channels of the backbone's maps, fine to
            coarse.
        out_channels (int): Channels of every output map.
        num_extra_levels (int): Levels added above the coarsest. Defaults to 2.
        num_layers (int): BiFPN layers. Defaults to 3.
        last_bottom_up (bool): Whether the last layer has a bottom-up pass.
            Its maps teach a self-teacher; a classifier of the finest map does
            without. Defaults to True.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation. Defaults to ``dict(type='ReLU')``.
        init_cfg (dict | list[dict], optional): Initialisation config.
    """

    @check_arguments(
        in_channels=at_least(1),
        out_channels=at_least(1),
        num_extra_levels=at_least(0),
        num_layers=at_least(1),
    )
    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_extra_levels: int = 2,
        num_layers: int = 3,
        last_bottom_up: bool = True,
        norm_cfg: Optional[dict] = None,
        act_cfg: Optional[dict] = None,
        init_cfg: Union[dict, List[dict], None] = None,
    ) -> None:
        super().__init__(init_cfg)
        check_in_channels('FPNBiFPNSeg', in_channels)
        self.in_channels = list(in_channels)
        layer_cfg = dict(
            norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU')
        )
        self.laterals = ModuleList(
            ConvModule(c, out_channels, 1, **layer_cfg) for c in in_channels
        )
        self.extra_levels = ModuleList(
            ConvModule(
                out_channels if i else in_channels[-1],
                out_channels,
                3,
                stride=2,
                padding=1,
                **layer_cfg,
            )
            for i in range(num_extra_levels)
        )
        self.bifpn = BiFPNSeg(
            [out_channels] * (len(in_channels) + num_extra_levels),
            num_layers=num_layers,
            last_bottom_up=last_bottom_up,
            **layer_cfg,
        )

    def forward(self, feats: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Map the backbone's (N, c_i, H_i, W_i) to six pyramid levels.

        Raises:
            ValueError: If the maps' number or channels are not ``in_channels``.
        """
        check_maps('FPNBiFPNSeg', feats, self.in_channels)
        levels = [lateral(feat) for lateral, feat in zip(self.laterals, feats)]
        for i in reversed(range(len(levels) - 1)):
            levels[i] = levels[i] + _upsample(levels[i + 1], levels[i])
        extra = feats[-1]
        for conv in self.extra_levels:
            extra = conv(extra)
            levels.append(extra)
        return self.bifpn(levels)


def _upsample(feat: Tensor, target: Tensor) -> Tensor:
    return F.interpolate(
        feat, size=target.shape[2:], mode='bilinear', align_corners=False
    )
