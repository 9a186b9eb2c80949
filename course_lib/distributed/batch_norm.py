"""Batch normalisation over the shares of all processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn


@contextmanager
def batch_norm_shared(detector: nn.Module) -> Iterator[None]:
    """While the block runs, batch normalisation in training sees the batches of all processes as one.

    PyTorch's own SyncBatchNorm does the same on GPUs alone.
    """
    layers = [layer for layer in detector.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        object.__setattr__(layer, "forward", partial(_normalise_together, layer))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "forward")


def _normalise_together(layer: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, per channel, with the moments of all processes' shares."""
    if not layer.training:
        return type(layer).forward(layer, x)
    axes = [axis for axis in range(x.dim()) if axis != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    mean = _Mean.apply(x.mean(axes))  # shares are of one size, so that the mean of means is the mean
    centred = x - mean.view(shape)
    variance = _Mean.apply(centred.square().mean(axes))
    if layer.track_running_stats:
        count = x.numel() / x.shape[1] * dist.get_world_size()
        layer.num_batches_tracked += 1
        weight = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
        layer.running_mean.lerp_(mean.detach().to(layer.running_mean), weight)
        layer.running_var.lerp_((variance.detach() * (count / (count - 1))).to(layer.running_var), weight)
    y = centred * (variance + layer.eps).rsqrt().view(shape)
    return y * layer.weight.view(shape) + layer.bias.view(shape) if layer.affine else y


class _Mean(torch.autograd.Function):
    """The mean over all processes; backwards, the mean of their gradients: each loss depends on every value."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        """The mean."""
        return _mean(value)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        """The sum over processes s of dL_s / d mean, times d mean / d value = 1 / n."""
        return _mean(gradient)


def _mean(value: Tensor) -> Tensor:
    value = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(value)
    return value / dist.get_world_size()
