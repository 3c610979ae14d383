"""BiFPN: bi-directional feature pyramid with one width for all levels."""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from mmengine.model import ModuleList
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import (
    ArgumentError,
    at_least,
    check_arguments,
    one_of,
)

from .layers import UPSAMPLE_MODES, BiFPNLayer
from .refining import RefiningNeck


def check_in_channels(name: str, in_channels: Sequence[int]) -> None:
    """Require the channels of at least two levels.

    Raises:
        ValueError: If there are fewer.
    """
    if len(in_channels) < 2:
        raise ValueError(
            f'{name} refines at least two feature maps, but in_channels is '
            f'{in_channels}. Let the backbone return more levels, for example '
            'student.backbone.out_indices=(0, 1, 2, 3).'
        )


def check_maps(name: str, feats: Sequence[Tensor], in_channels: Sequence[int]) -> None:
    """Require the maps for which a neck was built.

    Raises:
        ValueError: If the maps' number or channels are not ``in_channels``.
    """
    channels = [feat.shape[1] for feat in feats]
    if channels != list(in_channels):
        raise ValueError(
            f'{name} was built for in_channels={list(in_channels)} but received maps '
            f'with {channels} channels. Set in_channels (or the out_indices of the '
            'backbone) so that they agree.'
        )


@MODELS.register_module()
class BiFPN(RefiningNeck):
    r"""Refine feature maps top-down and bottom-up, all levels equally wide.

    With PW(a -> b) a 1x1 convolution, BN and ReLU, DW a depthwise-separable
    convolution repeated ``depth`` times, and w the fast normalised fusion
    weights, a layer computes for n levels, fine to coarse,

    .. math::
        L_i &= PW(c_i \to d)(F_i), \quad L'_i = PW(c_i \to d)(F_i)

        P_n &= L_n, \quad
        P_i = DW(w_1 L_i + w_2 Up(ReLU\,P_{i+1}))

        T_1 &= P_1, \quad
        T_i = DW(w_1 L'_i + w_2 ReLU\,P_i + w_3 Down(ReLU\,T_{i-1}))

        T_n &= DW(w_1 L'_n + w_2 Down(ReLU\,T_{n-1}))

    and the neck returns ReLU(T_1 .. T_n) of its last layer. Later layers of a
    stack take the previous ReLU(T_i) as L_i. Up and Down resize to the target
    level's actual size, so odd sizes and equal strides are fine.

    The layers keep PyTorch's default initialisation, as in the authors' code.

    With ``residual``, an extension, R_i = F_i + T_i takes the place of ReLU(T_i) at
    each level that the bottom-up pass reaches, and the norms that end T_i begin
    with the weight 0: at first the neck returns the maps that it is given, so that
    the self-teacher of a pretrained student begins with what its student knows
    instead of at random.

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, classification/models/bifpn.py

    Args:
        in_channels (Sequence[int]): Channels c_i of the input maps, fine to
            coarse; at least two levels.
        out_channels (int | Sequence[int]): Channels d of every refined map.
            Readable as a list, one entry a level. Defaults to 256.
        depth (int): Repeats of the depthwise-separable convolution.
            Defaults to 2.
        num_layers (int): Stacked layers. Defaults to 1.
        upsample_mode (str): 'nearest' (the authors' code) or 'bilinear' (the
            paper's text). Defaults to 'nearest'.
        norm_cfg (dict): Norm layer. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Activation. Defaults to ``dict(type='ReLU')``.
        last_bottom_up (int, optional): Coarsest level, counted from 0, that
            the bottom-up pass of the last layer reaches; coarser levels are
            T_i = P_i. A self-teacher sets it to the coarsest level that its
            head reads, since what lies beyond would never get a gradient.
            Defaults to all levels.
        with_cp (bool): Recompute the maps within each P_i and T_i in the
            backward pass instead of keeping them: less memory, more time, equal
            results. Defaults to False.
        residual (bool): Add the inputs to the refined maps, which must have their
            channels. Defaults to False, the published neck.
        init_cfg (dict | list[dict], optional): Initialisation config.

    Raises:
        ValueError: If an argument is out of range.
    """

    project_resampled = False

    @check_arguments(
        in_channels=at_least(1),
        out_channels=at_least(1),
        depth=at_least(1),
        num_layers=at_least(1),
        upsample_mode=one_of(*UPSAMPLE_MODES),
    )
    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Union[int, Sequence[int]] = 256,
        depth: int = 2,
        num_layers: int = 1,
        upsample_mode: str = 'nearest',
        norm_cfg: Optional[dict] = None,
        act_cfg: Optional[dict] = None,
        last_bottom_up: Optional[int] = None,
        with_cp: bool = False,
        residual: bool = False,
        init_cfg: Union[dict, List[dict], None] = None,
    ) -> None:
        super().__init__(init_cfg)
        name = type(self).__name__
        check_in_channels(name, in_channels)
        if isinstance(out_channels, int):
            out_channels = [out_channels] * len(in_channels)
        if len(out_channels) != len(in_channels):
            raise ArgumentError(
                name,
                'out_channels',
                f'has {len(out_channels)} entries, but in_channels has '
                f'{len(in_channels)}. Give one a level, or one number for all.',
            )
        if not self.project_resampled and len(set(out_channels)) > 1:
            raise ArgumentError(
                name,
                'out_channels',
                f'is {list(out_channels)}, but {name} adds maps of neighbouring '
                'levels, which takes equal channels. Give one number for all levels, '
                'or take BiFPNc.',
            )
        if residual and list(out_channels) != list(in_channels):
            raise ArgumentError(
                name,
                'residual',
                f'adds the inputs to the refined maps, but {name} makes '
                f'{list(out_channels)} channels of {list(in_channels)}. Set width=1 of '
                'BiFPNc, or out_channels of BiFPN to the channels of all inputs.',
            )
        if last_bottom_up is not None and not 0 <= last_bottom_up < len(in_channels):
            raise ValueError(
                f'last_bottom_up of {name} must be a level, 0 to '
                f'{len(in_channels) - 1}, got {last_bottom_up}.'
            )
        self.in_channels = list(in_channels)
        self.out_channels = list(out_channels)
        self.layers = ModuleList(
            BiFPNLayer(
                in_channels=self.out_channels if i else self.in_channels,
                out_channels=self.out_channels,
                depth=depth,
                first=i == 0,
                project_resampled=self.project_resampled,
                upsample_mode=upsample_mode,
                norm_cfg=norm_cfg or dict(type='BN'),
                act_cfg=act_cfg or dict(type='ReLU'),
                bottom_up=last_bottom_up if i == num_layers - 1 else None,
                with_cp=with_cp,
                residual=residual,
            )
            for i in range(num_layers)
        )

    @property
    def output_norms(self) -> Optional[List[nn.Module]]:
        """The norm that ends each refined map before its activation.

        None where the coarsest map has none, with ``last_bottom_up``, and where no
        activation follows, with ``residual``.
        """
        layer = self.layers[-1]
        if layer.residual or layer.bottom_up < layer.num_levels - 1:
            return None
        return layer.output_norms

    @classmethod
    def settings_for(cls, levels_read: Sequence[int]) -> Dict[str, Any]:
        """End the last bottom-up pass with the coarsest level that is read."""
        return dict(last_bottom_up=levels_read[-1])

    def forward(self, feats: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Refine the maps.

        Args:
            feats: Per level (N, c_i, H_i, W_i), fine to coarse, of any sizes.

        Returns:
            tuple[Tensor]: Per level (N, d_i, H_i, W_i).

        Raises:
            ValueError: If the maps' number or channels are not ``in_channels``.
        """
        check_maps(type(self).__name__, feats, self.in_channels)
        for layer in self.layers:
            feats = layer(feats)
        return tuple(feats)
