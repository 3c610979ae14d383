"""Training a distilled model with FSDP."""

from mmengine._strategy import FSDPStrategy as _FSDPStrategy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from frskd_mm.models.necks.layers import Pointwise
from frskd_mm.registry import STRATEGIES


@STRATEGIES.register_module()
class FSDPStrategy(_FSDPStrategy):
    """MMEngine's strategy for distilled models; all settings are MMEngine's.

    It lets BiFPN necks weigh their maps in a way that FSDP allows, and loads
    optimiser states: MMEngine passes them to PyTorch in the order of arguments
    of version 2.0, so that ``--resume`` fails with later ones.
    """

    def _wrap_model(self, model: nn.Module) -> FullyShardedDataParallel:
        for module in model.modules():
            if isinstance(module, Pointwise):
                # Multiply the map, not the norm's weight and bias: FSDP keeps these
                # where functional_call does not replace them, without an error.
                module.scales_norm = False
        return super()._wrap_model(model)

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
