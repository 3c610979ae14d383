"""Several training processes on machines without an accelerator."""

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
    # What MMEngine takes where no wrapper is configured, without the device.
    wrapper = dict(
        type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None
    )
    if 'runner_type' not in cfg:
        wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
        cfg.model_wrapper_cfg = {**wrapper, **(cfg.get('model_wrapper_cfg') or {})}
        return
    strategy = cfg.get('strategy') or dict(type='DDPStrategy')
    if strategy['type'] == 'DDPStrategy':
        given = strategy.get('model_wrapper') or {}
        cfg.strategy = {**strategy, 'model_wrapper': {**wrapper, **given}}
