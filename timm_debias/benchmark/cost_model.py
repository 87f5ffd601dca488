"""What a step costs by its size: seconds = a · multiply-adds + b · activations, a and b of a machine.

Layers with much arithmetic are bound by it, the others (depthwise convolutions, normalisations, activations) by memory.
Counts of a forward stand for the whole step, of which they are a share that is much the same for all models.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..multi_grid import MultiGrid
from .size import Size


class Measured(NamedTuple):
    """A measurement to fit the model to: seconds of a plain step for one image of a model of that size."""

    size: Size
    seconds: float


class CostModel(NamedTuple):
    """Seconds for one multiply-add and for one activation of the forward pass."""

    per_mac: float
    per_activation: float

    def seconds(self, size: Size) -> float:
        """Return the seconds of a plain step for one image."""
        return self.per_mac * size.macs + self.per_activation * size.activations


def fit(measured: Sequence[Measured]) -> CostModel:
    """Return the model with the least squares of relative errors, neither coefficient below 0.

    Args:
        measured: At least two measurements.
    """
    counts = torch.tensor([[one.size.macs, one.size.activations] for one in measured], dtype=torch.float64)
    shares = counts / torch.tensor([one.seconds for one in measured], dtype=torch.float64)[:, None]
    wanted = torch.ones(len(measured), dtype=torch.float64)
    # Columns of one scale: both counts are of the order of 1e9 and their ratio is not.
    scale = shares.norm(dim=0)
    a, b = torch.linalg.lstsq(shares / scale, wanted[:, None]).solution.flatten().tolist()
    if a < 0:
        a, b = 0.0, _alone(shares[:, 1] / scale[1])
    elif b < 0:
        a, b = _alone(shares[:, 0] / scale[0]), 0.0
    return CostModel(a / scale[0].item(), b / scale[1].item())


def leave_one_out(measured: Sequence[Measured]) -> list[float]:
    """Return the seconds predicted for each measurement by the model fitted to the others, at least three in all."""
    return [fit([*measured[:index], *measured[index + 1 :]]).seconds(one.size) for index, one in enumerate(measured)]


def debiased_ratio(plain: float, stylisation: float) -> float:
    """Return the debiased step in plain steps, from what a plain step and stylising cost for an image."""
    return 2 + stylisation / plain


def size_shares(multi_grid: MultiGrid, side: int, epochs: int) -> dict[int, float]:
    """Return the sides of stylised images in pixels, ascending, and the share of all updates with each.

    Args:
        multi_grid: The sizes.
        side: Side of the clean images.
        epochs: Length of the schedule; its epochs have an even number of updates, or many.
    """
    sides = [multi_grid.size((side, side), epoch, update)[0] for epoch in range(epochs) for update in (0, 1)]
    return {one: sides.count(one) / len(sides) for one in sorted(set(sides))}


def _alone(column: torch.Tensor) -> float:
    return (column.sum() / column.square().sum()).item()
