"""What processes send each other in a step, by formula, and how long they wait for it."""

from typing import NamedTuple

import torch
from torch import nn

from ..aux_bn import convert_aux_bn
from ..stylizers import Stylizer

BYTES = 4
"""Of a gradient, a buffer or a statistic: DistributedDataParallel reduces in the parameters' float32."""

BACKWARD = 2 / 3
"""Share of a step, the time in which gradients can be reduced while others are still computed."""


class Payload(NamedTuple):
    """Bytes that a step is about, before they are sent.

    Attributes:
        gradients: Of all parameters.
        aux_gradients: Of the auxiliary batch norms, part of the former.
        buffers: Batch norm statistics, which the first process sends to all others at each forward.
        style: Of one image, as the stylizer's `style` returns it.
    """

    gradients: int
    aux_gradients: int
    buffers: int
    style: int


def payload(model: nn.Module, stylizer: Stylizer, img_size: int, aux_bn: bool = True) -> Payload:
    """Return the payload of debiased training of `model`, whose batch norms get auxiliary ones with `aux_bn`."""
    before = sum(parameter.numel() for parameter in model.parameters())
    if aux_bn:
        convert_aux_bn(model)
    after = sum(parameter.numel() for parameter in model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    with torch.no_grad():
        style = stylizer.style(stylizer.encode(torch.zeros(1, 3, img_size, img_size)))
    return Payload(BYTES * after, BYTES * (after - before), buffers, sum(tensor.nbytes for tensor in style))


def all_reduce_bytes(gradients: int, world_size: int) -> float:
    """Return the bytes that each process sends, and receives, in an all-reduce: 2·(N − 1)/N of the gradients.

    That of a ring, than which none sends less: Patarasuk & Yuan, "Bandwidth optimal all-reduce algorithms for clusters
    of workstations" (2009).
    """
    return 2 * (world_size - 1) / world_size * gradients


def gathered_style_bytes(style: int, batch_size: int, world_size: int) -> int:
    """Return the bytes that each process would receive if all styles of the global batch went to all processes."""
    return (world_size - 1) * batch_size * style


def exchanged_style_bytes(style: int, batch_size: int, world_size: int) -> float:
    """Return the bytes that each process would receive if each style went only to the process that draws it.

    A permutation of the global batch takes a share of (N − 1)/N of the styles from other processes.
    """
    return (world_size - 1) / world_size * batch_size * style


def waiting_seconds(hidden: float, exposed: float, bandwidth: float, step: float) -> float:
    """Return for how long a process waits in an update.

    Args:
        hidden: Bytes that travel during the last backward pass of the update: gradients.
        exposed: Bytes that nothing can go on without: batch norm statistics, styles.
        bandwidth: Bytes a second that each process sends and receives.
        step: Seconds of a step.
    """
    return max(0.0, hidden / bandwidth - BACKWARD * step) + exposed / bandwidth
