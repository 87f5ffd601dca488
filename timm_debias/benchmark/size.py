"""Counts that do not depend on the machine: parameters, multiply-adds, activations."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..errors import DebiasError, reason
from ..stylizers import Stylizer

IMG_SIZE = 224
"""Side in pixels that stylizers are measured at."""


class Size(NamedTuple):
    """What a forward of one image takes.

    Attributes:
        parameters: Number of parameters.
        macs: Multiply-adds of convolutions and matrix products.
        activations: Elements of all tensors that are computed, views left out.
    """

    parameters: int
    macs: int
    activations: int


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def count_macs(stylizer: Stylizer, img_size: int = IMG_SIZE) -> int:
    """Return the multiply-adds of convolutions and products for one image [3, img_size, img_size], encoded once."""
    image = torch.zeros(1, 3, img_size, img_size)
    return count(lambda: stylizer.mix(image, torch.tensor([0]), 1.0))[0]


@cache
@torch.no_grad()
def model_size(name: str, img_size: int) -> Size:
    """Return the size of a timm model for an image [3, img_size, img_size], without allocating or computing it.

    Raises:
        DebiasError: timm cannot create the model, or it does not take images of that size.
    """
    try:
        with torch.device('meta'):
            model = timm.create_model(name).eval()
            image = torch.zeros(1, 3, img_size, img_size)
        return Size(count_parameters(model), *count(lambda: model(image)))
    except (RuntimeError, AssertionError, ValueError, TypeError, OSError) as error:
        why = reason(error)[:200]
        raise DebiasError(f'{name} does not take images of {img_size} pixels ({why})') from error


def count(call: Callable[[], object]) -> tuple[int, int]:
    """Return multiply-adds and activations of a call."""
    with FlopCounterMode(display=False) as macs, _ActivationCounter() as activations:
        call()
    return macs.get_total_flops() // 2, activations.elements


class _ActivationCounter(TorchDispatchMode):
    """Counts the elements of the tensors that operations return, except where they are views."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.elements += sum(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        return result
