"""Training a distilled model with FSDP."""

import inspect
from typing import Any, Optional

import torch
from mmengine._strategy import FSDPStrategy as _FSDPStrategy
from mmengine.device import get_device
from torch.distributed.fsdp import FullyShardedDataParallel

from frskd_mm.registry import STRATEGIES
from frskd_mm.utils.arguments import check_arguments


def shards_over_cpus() -> bool:
    """Say whether this PyTorch's FSDP runs without an accelerator: 2.1's does not."""
    stream = getattr(getattr(torch, 'cpu', None), 'Stream', None)
    return stream is not None and 'priority' in inspect.signature(stream).parameters


@STRATEGIES.register_module()
class FSDPStrategy(_FSDPStrategy):
    """MMEngine's strategy for distilled models; all settings are MMEngine's.

    It loads optimiser states: MMEngine passes them to PyTorch in the order of
    arguments of version 2.0, so that ``--resume`` fails with later ones. Without an
    accelerator it shards over CPUs, where MMEngine's asks for a GPU.

    Args:
        model_wrapper (dict, optional): Settings of the wrapper; its ``device_id`` is
            'cpu' where there is no accelerator. None by default.
        **kwargs: Other settings of MMEngine's strategy, such as ``state_dict_cfg``.

    Raises:
        ValueError: Without an accelerator, if PyTorch's FSDP needs one.
    """

    @check_arguments()
    def __init__(self, *, model_wrapper: Optional[dict] = None, **kwargs: Any) -> None:
        on_cpu = get_device() == 'cpu'
        if on_cpu and not shards_over_cpus():
            raise ValueError(
                f'FSDP of PyTorch {torch.__version__} needs GPUs, and none was found. '
                "Use a newer PyTorch, or dict(type='DDPStrategy') as strategy."
            )
        if on_cpu:
            settings = dict(type='MMFullyShardedDataParallel', device_id='cpu')
            model_wrapper = {**settings, **(model_wrapper or {})}
        super().__init__(model_wrapper=model_wrapper, **kwargs)
        if on_cpu and kwargs.get('state_dict_cfg') == 'full':
            # Moving whole tensors to the CPU would free those that are there.
            self.state_dict_config.offload_to_cpu = False
            self.optim_state_dict_config.offload_to_cpu = False

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the optimiser states of a checkpoint.

        Args:
            state_dict: As :meth:`optim_state_dict` gives it.
        """
        sharded = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model,
            optim=self.optim_wrapper.optimizer,
            optim_state_dict=state_dict,
        )
        self.optim_wrapper.load_state_dict(sharded)
