"""BiFPNc: BiFPN whose width follows the channels of each level."""

from typing import Any, Sequence

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import POSITIVE, at_least, check_arguments

from .bifpn import BiFPN, check_in_channels


@MODELS.register_module()
class BiFPNc(BiFPN):
    r"""BiFPN with d_i = ``width`` * c_i channels at level i.

    Narrow, fine maps stay cheap and wide, coarse maps keep their capacity.
    Since levels differ in width, every resampling is followed by a PW; the
    rest is as in :class:`BiFPN`:

    .. math::
        P_i &= DW(w_1 L_i + w_2 PW(d_{i+1} \to d_i)(Up(ReLU\,P_{i+1})))

        T_i &= DW(w_1 L'_i + w_2 ReLU\,P_i
               + w_3 PW(d_{i-1} \to d_i)(Down(ReLU\,T_{i-1})))

    The authors' code fails when it stacks layers; here a later layer's second
    lateral maps d_i to d_i.

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, classification/models/bifpnc.py

    Example:
        >>> import torch
        >>> neck = BiFPNc([16, 32], width=2)
        >>> refined = neck([torch.zeros(1, 16, 25, 25), torch.zeros(1, 32, 13, 13)])
        >>> [tuple(map.shape) for map in refined]
        [(1, 32, 25, 25), (1, 64, 13, 13)]

    Args:
        in_channels (Sequence[int]): Channels c_i of the input maps, fine to
            coarse; at least two levels.
        width (int | float): Channel multiplier. Defaults to 2.
        **kwargs: Other arguments of :class:`BiFPN`; ``out_channels`` follows
            from the above.

    Raises:
        ValueError: If an argument is out of range.
    """

    project_resampled = True

    @check_arguments(in_channels=at_least(1), width=POSITIVE)
    def __init__(
        self, in_channels: Sequence[int], width: float = 2, **kwargs: Any
    ) -> None:
        check_in_channels('BiFPNc', in_channels)
        if 'out_channels' in kwargs:
            raise ValueError(
                'BiFPNc has no out_channels: they are width * in_channels. Set '
                'width, or use BiFPN for one width at all levels.'
            )
        super().__init__(
            in_channels, [max(1, round(width * c)) for c in in_channels], **kwargs
        )
