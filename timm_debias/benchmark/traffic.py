"""What processes send each other in a step, by formula."""

from typing import NamedTuple

import torch
from torch import nn

from ..aux_bn import convert_aux_bn
from ..stylizers import Stylizer

BYTES = 4
"""Of a gradient, a buffer or a statistic: DistributedDataParallel reduces in the parameters' float32."""


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


def payload(model: nn.Module, stylizer: Stylizer, img_size: int) -> Payload:
    """Return the payload of debiased training of `model`, whose batch norms get auxiliary ones."""
    before = sum(parameter.numel() for parameter in model.parameters())
    convert_aux_bn(model)
    after = sum(parameter.numel() for parameter in model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    with torch.no_grad():
        style = stylizer.style(stylizer.encode(torch.zeros(1, 3, img_size, img_size)))
    return Payload(BYTES * after, BYTES * (after - before), buffers, sum(tensor.nbytes for tensor in style))


def all_reduce_bytes(gradients: int, world_size: int) -> float:
    """Return the bytes that each process sends (and receives) in a ring all-reduce: 2·(N − 1)/N of the gradients."""
    return 2 * (world_size - 1) / world_size * gradients


def gathered_style_bytes(style: int, batch_size: int, world_size: int) -> int:
    """Return the bytes that each process would receive if all styles of the global batch went to all processes."""
    return (world_size - 1) * batch_size * style


def exchanged_style_bytes(style: int, batch_size: int, world_size: int) -> float:
    """Return the bytes that each process would receive if each style went only to the process that draws it.

    A permutation of the global batch takes a share of (N − 1)/N of the styles from other processes.
    """
    return (world_size - 1) / world_size * batch_size * style
