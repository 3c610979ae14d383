"""Building blocks of the BiFPN necks."""

from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

UPSAMPLE_MODES = ('nearest', 'bilinear')


def pointwise(
    in_channels: int, out_channels: int, norm_cfg: dict, act_cfg: dict
) -> nn.Sequential:
    """PW of the equations: 1x1 convolution without bias, norm, activation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        build_norm_layer(norm_cfg, out_channels)[1],
        build_activation_layer(act_cfg),
    )


def depthwise_separable(
    channels: int, depth: int, norm_cfg: dict, act_cfg: dict
) -> nn.Sequential:
    """DW of the equations.

    ``depth`` times 3x3 depthwise convolution, 1x1 convolution, norm; an
    activation between the repeats and none after the last.
    """
    layers: List[nn.Module] = []
    for repeat in range(depth):
        if repeat > 0:
            layers.append(build_activation_layer(act_cfg))
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            build_norm_layer(norm_cfg, channels)[1],
        ]
    return nn.Sequential(*layers)


class FastNormalizedFusion(nn.Module):
    """Weighted sum of maps with one learnable, non-negative weight a map.

    The weights are ReLU(w) / (sum ReLU(w) + 1e-6), w initialised to 1.

    Paper: EfficientDet, CVPR 2020, https://arxiv.org/abs/1911.09070

    Args:
        num_inputs (int): Number of maps to fuse.
    """

    eps = 1e-6

    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_inputs))

    def forward(self, *feats: Tensor) -> Tensor:
        """Fuse maps of one shape (N, C, H, W) into one of that shape."""
        weight = F.relu(self.weight)
        weight = weight / (weight.sum() + self.eps)
        fused = weight[0] * feats[0]
        for w, feat in zip(weight[1:], feats[1:]):
            fused = fused + w * feat
        return fused


class Upsample(nn.Module):
    """Bring a coarse map to a finer level's channels and size.

    ``project`` is PW for BiFPNc and the identity for BiFPN. The equations
    resize first. Nearest upsampling by whole factors repeats each value
    equally often, so the projection commutes with it and runs on the small
    map: equal numbers for a fraction of the work. Only the unbiased factor
    n / (n - 1) in a BN's running variance differs.

    Args:
        project (nn.Module): Channel projection.
        mode (str): 'nearest' or 'bilinear'.
    """

    def __init__(self, project: nn.Module, mode: str) -> None:
        super().__init__()
        self.project = project
        self.mode = mode

    def forward(self, feat: Tensor, size: Tuple[int, int]) -> Tensor:
        """Map (N, C, h, w) to (N, C', H, W) with (H, W) = ``size``."""
        commutes = self.mode == 'nearest' and all(
            large % small == 0 for large, small in zip(size, feat.shape[2:])
        )
        if commutes:
            return self._resize(self.project(feat), size)
        return self.project(self._resize(feat, size))

    def _resize(self, feat: Tensor, size: Tuple[int, int]) -> Tensor:
        if feat.shape[2:] == size:
            return feat
        align = {} if self.mode == 'nearest' else {'align_corners': False}
        return F.interpolate(feat, size=size, mode=self.mode, **align)


class Downsample(nn.Module):
    """Bring a fine map to a coarser level's channels and size.

    3x3 stride-2 max-pooling with "same" padding where that gives the wanted
    size, nothing where the level shares its stride with the finer one, and
    adaptive max-pooling for any other size.

    Args:
        project (nn.Module): Channel projection, PW for BiFPNc and the
            identity for BiFPN.
    """

    def __init__(self, project: nn.Module) -> None:
        super().__init__()
        self.project = project

    def forward(self, feat: Tensor, size: Tuple[int, int]) -> Tensor:
        """Map (N, C, h, w) to (N, C', H, W) with (H, W) = ``size``."""
        return self.project(self._resize(feat, size))

    @staticmethod
    def _resize(feat: Tensor, size: Tuple[int, int]) -> Tensor:
        height, width = feat.shape[2:]
        if (height, width) == size:
            return feat
        if (-(-height // 2), -(-width // 2)) == size:
            # "Same" padding: one row on both sides of an odd height, one at
            # the end (ceil_mode) of an even one; columns likewise.
            padding = (height % 2, width % 2)
            return F.max_pool2d(feat, 3, stride=2, padding=padding, ceil_mode=True)
        return F.adaptive_max_pool2d(feat, size)


class BiFPNLayer(BaseModule):
    """One top-down and one bottom-up pass over the levels.

    Args:
        in_channels (Sequence[int]): c_i a level, fine to coarse.
        out_channels (Sequence[int]): d_i a level.
        depth (int): Repeats in each DW.
        first (bool): Whether the layer has the first laterals L_i. Later
            layers of a stack take their inputs as L_i.
        project_resampled (bool): Whether a PW follows each resampling.
        upsample_mode (str): 'nearest' or 'bilinear'.
        norm_cfg (dict): Norm layer config.
        act_cfg (dict): Activation config.
        bottom_up (int, optional): Coarsest level, counted from 0, that the
            bottom-up pass reaches; T_i = P_i beyond. Defaults to all levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        depth: int,
        first: bool,
        project_resampled: bool,
        upsample_mode: str,
        norm_cfg: dict,
        act_cfg: dict,
        bottom_up: Optional[int] = None,
    ) -> None:
        super().__init__()
        self.first = first
        self.num_levels = len(in_channels)
        self.bottom_up = self.num_levels - 1 if bottom_up is None else bottom_up
        layer_cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)

        def projection(source: int, target: int) -> nn.Module:
            if not project_resampled:
                return nn.Identity()
            return pointwise(out_channels[source], out_channels[target], **layer_cfg)

        # Both laterals of a level read the same map, so they are one
        # convolution: its first d_i outputs are L_i, its last d_i are L'_i.
        # The finest level and those beyond the bottom-up pass have no L', a
        # later layer has no L.
        self.laterals = ModuleList()
        for level, (in_dim, out_dim) in enumerate(zip(in_channels, out_channels)):
            copies = int(first) + int(0 < level <= self.bottom_up)
            self.laterals.append(
                pointwise(in_dim, copies * out_dim, **layer_cfg)
                if copies
                else nn.Identity()
            )
        fine, coarse = range(self.num_levels - 1), range(1, self.bottom_up + 1)
        self.upsamples = ModuleList(
            Upsample(projection(i + 1, i), upsample_mode) for i in fine
        )
        self.top_down_fusions = ModuleList(FastNormalizedFusion(2) for _ in fine)
        self.top_down_convs = ModuleList(
            depthwise_separable(out_channels[i], depth, **layer_cfg) for i in fine
        )
        self.downsamples = ModuleList(Downsample(projection(i - 1, i)) for i in coarse)
        self.bottom_up_fusions = ModuleList(
            FastNormalizedFusion(3 if i < self.num_levels - 1 else 2) for i in coarse
        )
        self.bottom_up_convs = ModuleList(
            depthwise_separable(out_channels[i], depth, **layer_cfg) for i in coarse
        )
        # Not in place: a pre-activation map may be read again.
        self.activate = build_activation_layer({**act_cfg, 'inplace': False})

    def _laterals(
        self, feats: Sequence[Tensor]
    ) -> Tuple[List[Tensor], List[Optional[Tensor]]]:
        """Return L_i and L'_i of every level (no L' at the finest)."""
        outs = [lateral(feat) for lateral, feat in zip(self.laterals, feats)]
        if not self.first:
            return list(feats), [None, *outs[1:]]
        end = self.bottom_up + 1
        halves = [out.chunk(2, dim=1) for out in outs[1:end]]
        firsts = [outs[0], *(h[0] for h in halves), *outs[end:]]
        return firsts, [None, *(h[1] for h in halves)]

    def forward(self, feats: Sequence[Tensor]) -> List[Tensor]:
        """Refine the maps.

        Args:
            feats: Per level (N, c_i, H_i, W_i), fine to coarse.

        Returns:
            list[Tensor]: T_i *before* the activation, (N, d_i, H_i, W_i).
        """
        first_laterals, second_laterals = self._laterals(feats)
        sizes = [tuple(feat.shape[2:]) for feat in feats]
        last = self.num_levels - 1

        # P_i and, from here on always read through the activation, act(P_i).
        # P_n = L_n is an activated map already.
        raw_p: List[Tensor] = [first_laterals[last]]
        active_p: List[Tensor] = [first_laterals[last]]
        for i in reversed(range(last)):
            p = self.top_down_convs[i](
                self.top_down_fusions[i](
                    first_laterals[i], self.upsamples[i](active_p[0], sizes[i])
                )
            )
            raw_p.insert(0, p)
            active_p.insert(0, self.activate(p))

        outs, active_t = [raw_p[0]], active_p[0]
        for i in range(1, self.bottom_up + 1):
            inputs = [second_laterals[i]]
            if i < last:
                inputs.append(active_p[i])
            inputs.append(self.downsamples[i - 1](active_t, sizes[i]))
            outs.append(
                self.bottom_up_convs[i - 1](self.bottom_up_fusions[i - 1](*inputs))
            )
            active_t = self.activate(outs[-1])
        return outs + raw_p[self.bottom_up + 1 :]
