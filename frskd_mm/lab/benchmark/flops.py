"""Counting the arithmetic of a model and of a whole training step."""

import logging
from typing import Any, Callable, Dict, List, Sequence

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.logging import MMLogger
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


def _conv_backward_flops(
    grad_shape: List[int],
    x_shape: List[int],
    weight_shape: List[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: Sequence[bool],
    out_shape: Any = None,
) -> int:
    """Count a convolution's backward pass.

    The gradient of the input and that of the weights take as much as the forward
    pass, each. PyTorch's own formula takes a convolution with groups for a dense
    one in the latter: a depthwise one with 512 channels would count 512 times.
    """
    forward = conv_flop_count(x_shape, weight_shape, grad_shape, transposed)
    return forward * (bool(output_mask[0]) + bool(output_mask[1]))


FORMULAS = {torch.ops.aten.convolution_backward: _conv_backward_flops}


def count_flops(run: Callable[[], Any]) -> int:
    """Return the floating-point operations of what ``run`` does.

    Matrix products, convolutions and attention count, forward and backward, two
    operations a multiply-add. Element-wise work, normalisation, pooling and
    compiled code do not.
    """
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        run()
    return counter.get_total_flops()


def count_inference_macs(model: nn.Module, batch: Dict[str, Any]) -> int:
    """Return the multiply-adds of a prediction of the first image.

    MMEngine's analysis is asked, which traces the model. Models that it cannot
    trace, as those whose forward pass needs annotations, are counted by
    :func:`count_flops`.

    Args:
        model: Model of a host library; its mode is given back.
        batch: Preprocessed ``inputs`` and ``data_samples``.
    """
    training = model.training
    model.eval()
    image, samples = batch['inputs'][:1], batch['data_samples'][:1]
    # It warns of every operation that it leaves out.
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        analysis = get_model_complexity_info(
            model, inputs=(image,), show_table=False, show_arch=False
        )
        return int(analysis['flops'])
    except Exception:  # whatever the model does not stand while it is traced
        with torch.no_grad():
            return count_flops(lambda: model(image, samples, mode='tensor')) // 2
    finally:
        logger.setLevel(level)
        model.train(training)
