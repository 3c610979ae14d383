"""Training a distilled model with FSDP."""

from mmengine._strategy import FSDPStrategy as _FSDPStrategy
from torch.distributed.fsdp import FullyShardedDataParallel

from frskd_mm.registry import STRATEGIES


@STRATEGIES.register_module()
class FSDPStrategy(_FSDPStrategy):
    """MMEngine's strategy for distilled models; all settings are MMEngine's.

    It loads optimiser states: MMEngine passes them to PyTorch in the order of
    arguments of version 2.0, so that ``--resume`` fails with later ones.
    """

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
