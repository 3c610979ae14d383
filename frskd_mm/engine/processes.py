"""Several training processes on machines without an accelerator."""

from typing import Any, Dict

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from torch import distributed


def join_cpu_processes(cfg: Config) -> None:
    """Let the processes of ``torchrun`` meet on the CPU, where there is no GPU.

    MMEngine's launcher selects a CUDA device, and its model wrappers name one, so
    ``--launcher pytorch`` fails there without this. Gloo takes the place of NCCL.

    Args:
        cfg: Training config with ``launcher``; its model wrapper is told, in
            place, to stay where the model is.
    """
    if cfg.get('launcher') != 'pytorch' or get_device() != 'cpu':
        return
    if not is_distributed():
        distributed.init_process_group('gloo')
    if 'runner_type' not in cfg:
        _stay_on_cpu(cfg, 'model_wrapper_cfg', cfg.get('find_unused_parameters', False))
    elif cfg.strategy.type in ('DDPStrategy', 'FSDPStrategy'):
        _stay_on_cpu(cfg.strategy, 'model_wrapper')


def _stay_on_cpu(cfg: Dict[str, Any], key: str, find_unused: bool = False) -> None:
    wrapper = cfg.setdefault(key, {}) or {}
    if cfg.get('type') == 'FSDPStrategy':
        wrapper.setdefault('type', 'MMFullyShardedDataParallel')
        wrapper['device_id'] = None
    else:
        # What the runner takes where no wrapper is configured.
        wrapper.setdefault('type', 'MMDistributedDataParallel')
        wrapper.setdefault('broadcast_buffers', False)
        wrapper.setdefault('find_unused_parameters', find_unused)
        wrapper['device_ids'] = None
    cfg[key] = wrapper
