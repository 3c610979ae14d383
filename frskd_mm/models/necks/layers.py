"""Building blocks of the BiFPN necks."""

import math
from typing import Any, Callable, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn
from torch.func import functional_call

from frskd_mm.utils.recompute import recompute

UPSAMPLE_MODES = ('nearest', 'bilinear')
#: Activations with f(s * x) = s * f(x) for every s >= 0.
HOMOGENEOUS = ('ReLU', 'LeakyReLU')


def build_inplace_activation(act_cfg: dict) -> nn.Module:
    """Build an activation that overwrites its input where its kind can.

    All that is activated here comes from a norm, whose gradient needs the
    norm's input and not its output.
    """
    inplace = dict(inplace=True) if act_cfg['type'] in HOMOGENEOUS else {}
    return build_activation_layer({**inplace, **act_cfg})


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """Build a norm; of a group norm as many of the groups as divide the channels.

    32 groups of 48 channels become 16.
    """
    groups = norm_cfg.get('num_groups')
    if groups is not None:
        norm_cfg = {**norm_cfg, 'num_groups': math.gcd(groups, channels)}
    return build_norm_layer(norm_cfg, channels)[1]


class Pointwise(nn.Sequential):
    """PW of the equations: 1x1 convolution without bias, norm, activation.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        norm_cfg (dict): Norm layer config.
        act_cfg (dict): Activation config.
    """

    def __init__(
        self, in_channels: int, out_channels: int, norm_cfg: dict, act_cfg: dict
    ) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            build_norm(norm_cfg, out_channels),
            build_inplace_activation(act_cfg),
        )
        self.homogeneous = act_cfg['type'] in HOMOGENEOUS

    def forward(self, feat: Tensor, scale: Optional[Tensor] = None) -> Tensor:
        """Map (N, C, H, W) to (N, C', H, W).

        Args:
            feat: The input.
            scale: Factor on the output, not negative: a number or one a
                channel, (C', ). It moves through the activation into the norm's
                weight and bias, so that no map is multiplied, unless another
                activation or norm, or one whose parameters FSDP holds, forbids it.
        """
        if scale is None:
            return super().forward(feat)
        conv, norm, activate = self
        affine = {name: scale * value for name, value in norm.named_parameters()}
        # FSDP keeps parameters on the instance, where functional_call does not
        # replace them.
        fixed = 'weight' in norm.__dict__ or affine.keys() != {'weight', 'bias'}
        if fixed or not self.homogeneous:
            return scale.reshape(-1, 1, 1) * super().forward(feat)
        return activate(functional_call(norm, affine, conv(feat)))


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
            layers.append(build_inplace_activation(act_cfg))
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            build_norm(norm_cfg, channels),
        ]
    return nn.Sequential(*layers)


class FusionWeights(nn.Module):
    """One learnable weight for each map of a fast normalised fusion.

    Paper: EfficientDet, CVPR 2020, https://arxiv.org/abs/1911.09070

    Args:
        num_inputs (int): Number of maps to fuse.
    """

    eps = 1e-6

    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_inputs))

    def forward(self) -> Tensor:
        """Return ReLU(w) / (sum ReLU(w) + 1e-6), (num_inputs, )."""
        weight = F.relu(self.weight)
        return weight / (weight.sum() + self.eps)


class Resample(nn.Module):
    """Bring a map to a neighbouring level's channels and size, and weigh it.

    Args:
        project (Pointwise, optional): Channel projection of BiFPNc; BiFPN, with
            one width at all levels, has none.
    """

    def __init__(self, project: Optional[Pointwise]) -> None:
        super().__init__()
        self.project = project

    def weigh(self, feat: Tensor, weight: Tensor) -> Tensor:
        """Project, and multiply by the fusion's weight of this map."""
        return weight * feat if self.project is None else self.project(feat, weight)


class Upsample(Resample):
    """Bring a coarse map to a finer level's channels and size.

    The equations resize first. Nearest upsampling by whole factors repeats
    each value equally often, so the projection commutes with it and runs on
    the small map: equal numbers for a fraction of the work. Only the unbiased
    factor n / (n - 1) in a BN's running variance differs.

    Args:
        project (Pointwise, optional): See :class:`Resample`.
        mode (str): 'nearest' or 'bilinear'.
    """

    def __init__(self, project: Optional[Pointwise], mode: str) -> None:
        super().__init__(project)
        self.mode = mode

    def forward(self, feat: Tensor, size: Tuple[int, int], weight: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C', H, W) with (H, W) = ``size``."""
        commutes = self.project is None or (
            self.mode == 'nearest'
            and all(big % small == 0 for big, small in zip(size, feat.shape[2:]))
        )
        if commutes:
            return self._resize(self.weigh(feat, weight), size)
        return self.weigh(self._resize(feat, size), weight)

    def _resize(self, feat: Tensor, size: Tuple[int, int]) -> Tensor:
        if feat.shape[2:] == size:
            return feat
        align = {} if self.mode == 'nearest' else {'align_corners': False}
        return F.interpolate(feat, size=size, mode=self.mode, **align)


class Downsample(Resample):
    """Bring a fine map to a coarser level's channels and size.

    3x3 stride-2 max-pooling with "same" padding where that gives the wanted
    size, nothing where the level shares its stride with the finer one, and
    adaptive max-pooling for any other size.
    """

    def forward(self, feat: Tensor, size: Tuple[int, int], weight: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C', H, W) with (H, W) = ``size``."""
        return self.weigh(self._resize(feat, size), weight)

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
        with_cp (bool): Whether to recompute what lies within each P_i and T_i
            in the backward pass instead of keeping it. Defaults to False.
        residual (bool): Whether R_i = F_i + T_i takes the place of ReLU(T_i), with
            T_i = 0 at first. Defaults to False.

    Raises:
        ValueError: If a residual layer's norms have no weight to begin at 0.
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
        with_cp: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.first = first
        self.residual = residual
        self.with_cp = with_cp
        self.num_levels = len(in_channels)
        self.bottom_up = self.num_levels - 1 if bottom_up is None else bottom_up
        layer_cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)

        def projection(source: int, target: int) -> Optional[Pointwise]:
            if not project_resampled:
                return None
            return Pointwise(out_channels[source], out_channels[target], **layer_cfg)

        fine, coarse = range(self.num_levels - 1), range(1, self.bottom_up + 1)
        channels = list(zip(in_channels, out_channels))
        # L_i, which later layers of a stack do without, and L'_i. One convolution
        # for both would read the input once, but join their gradients in a copy
        # twice as large as what it saves.
        self.laterals = ModuleList(
            Pointwise(c, d, **layer_cfg) for c, d in (channels if first else [])
        )
        self.second_laterals = ModuleList(
            Pointwise(c, d, **layer_cfg) for c, d in channels[1 : self.bottom_up + 1]
        )
        self.upsamples = ModuleList(
            Upsample(projection(i + 1, i), upsample_mode) for i in fine
        )
        self.top_down_fusions = ModuleList(FusionWeights(2) for _ in fine)
        self.top_down_convs = ModuleList(
            depthwise_separable(out_channels[i], depth, **layer_cfg) for i in fine
        )
        self.downsamples = ModuleList(Downsample(projection(i - 1, i)) for i in coarse)
        self.bottom_up_fusions = ModuleList(
            FusionWeights(3 if i < self.num_levels - 1 else 2) for i in coarse
        )
        self.bottom_up_convs = ModuleList(
            depthwise_separable(out_channels[i], depth, **layer_cfg) for i in coarse
        )
        self.activate = build_inplace_activation(act_cfg)
        if residual:
            for norm in self.output_norms:
                weight: Optional[nn.Parameter] = getattr(norm, 'weight', None)
                if weight is None:
                    raise ValueError(
                        'A residual BiFPN begins with norms whose weight is 0, but '
                        f'{norm_cfg["type"]} has none. Change norm_cfg, or remove '
                        'residual.'
                    )
                nn.init.zeros_(weight)

    @property
    def output_norms(self) -> List[nn.Module]:
        """The norms that end T_i, as far as the bottom-up pass reaches."""
        convs = (self.top_down_convs[0], *self.bottom_up_convs)
        return [conv[-1] for conv in convs]

    def forward(self, feats: Sequence[Tensor]) -> List[Tensor]:
        """Refine the maps.

        Args:
            feats: Per level (N, c_i, H_i, W_i), fine to coarse.

        Returns:
            list[Tensor]: ReLU(T_i) or R_i, (N, d_i, H_i, W_i).
        """
        last = self.num_levels - 1
        # P_i is always read through the activation. P_n = L_n is activated already,
        # except that of a later residual layer, R_n.
        p = [self._lateral(last, feats[last])]
        for i in reversed(range(last)):
            p.insert(0, self._run(self._top_down, i, feats[i], p[0]))
        t = [p[0]]
        for i in range(1, self.bottom_up + 1):
            skipped = p[i] if i < last else None
            t.append(self._run(self._bottom_up, i, feats[i], t[-1], skipped))
        return t + p[self.bottom_up + 1 :]

    def _run(self, node: Callable[..., Tensor], level: int, *args: Any) -> Tensor:
        if self.with_cp and self.training and torch.is_grad_enabled():
            return recompute(self._parts(node, level), node, level, *args)
        return node(level, *args)

    def _parts(self, node: Callable[..., Tensor], level: int) -> List[nn.Module]:
        """Return the modules that a node runs, its weights aside."""
        if node == self._top_down:
            laterals = [self.laterals[level]] if self.first else []
            return [*laterals, self.upsamples[level], self.top_down_convs[level]]
        parts = (self.second_laterals, self.downsamples, self.bottom_up_convs)
        return [part[level - 1] for part in parts]

    def _lateral(
        self, level: int, feat: Tensor, weight: Optional[Tensor] = None
    ) -> Tensor:
        """Return L_i, weighed; later layers of a stack take their input as L_i."""
        if self.first:
            return self.laterals[level](feat, weight)
        return feat if weight is None else weight * feat

    def _top_down(self, level: int, feat: Tensor, coarser: Tensor) -> Tensor:
        """Return ReLU(P_i) from F_i and ReLU(P_{i+1}), of the finest the output."""
        weight, up_weight = self.top_down_fusions[level]()
        up = self.upsamples[level](coarser, feat.shape[2:], up_weight)
        fused = self._lateral(level, feat, weight) + up
        refined = self.top_down_convs[level](fused)
        # T_1 is P_1.
        return self.activate(refined) if level else self._finish(refined, feat)

    def _bottom_up(
        self, level: int, feat: Tensor, finer: Tensor, skipped: Optional[Tensor]
    ) -> Tensor:
        """Return the output from F_i, that of T_{i-1} and ReLU(P_i), none of P_n."""
        weight, *skip_weight, down_weight = self.bottom_up_fusions[level - 1]()
        down = self.downsamples[level - 1](finer, feat.shape[2:], down_weight)
        fused = self.second_laterals[level - 1](feat, weight) + down
        if skipped is not None:
            fused += skip_weight[0] * skipped
        return self._finish(self.bottom_up_convs[level - 1](fused), feat)

    def _finish(self, refined: Tensor, feat: Tensor) -> Tensor:
        """Return what becomes of T_i."""
        return feat + refined if self.residual else self.activate(refined)
