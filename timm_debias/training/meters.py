"""Means over an epoch of what a task measures."""

import math
from collections import OrderedDict
from typing import Any

import torch
import torch.distributed as dist

from ..machine import Machine

MEASURES = ('loss', 'loss_clean', 'loss_stylised', 'top1_clean', 'top1_stylised')
"""Entries of a task's result that are told, where the task gives them."""


class Meters:
    """Means over the images of an epoch, summed on the device so that no step waits for the host.

    Attributes:
        sums: Sums of the results over the images of this process.
        count: Number of those images.
        skipped: Updates that were undone because they were not finite.
        bad: Rows of this process's images that could not be read (`BadImage.row`).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0
        self.skipped = 0
        self.bad: list[list[str]] = []

    def update(self, result: dict[str, torch.Tensor], count: int) -> None:
        """Add the results of a task for a batch of `count` images."""
        self.count += count
        for name in MEASURES:
            if name in result:
                # float32 on the device: MPS has no float64, and an epoch's sum keeps 6 digits.
                value = result[name].detach().float() * count
                self.sums[name] = self.sums[name] + value if name in self.sums else value

    def compute(self) -> OrderedDict[str, float]:
        """Return the means over the images of all processes, NaN of none; to be called by all."""
        if not self.machine.distributed:
            return OrderedDict((name, total.item() / (self.count or math.nan)) for name, total in self.sums.items())
        totals = torch.stack([*self.sums.values(), torch.tensor(float(self.count), device=self.machine.device)])
        dist.all_reduce(totals)
        *sums, count = totals.tolist()
        return OrderedDict((name, total / (count or math.nan)) for name, total in zip(self.sums, sums, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of this process."""
        return {'sums': dict(self.sums), 'count': self.count, 'skipped': self.skipped, 'bad': list(self.bad)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.sums = {name: total.to(self.machine.device) for name, total in state['sums'].items()}
        self.count = state['count']
        # Not in checkpoints of earlier versions.
        self.skipped, self.bad = state.get('skipped', 0), list(state.get('bad', []))

    def undo(self, state: dict[str, Any]) -> None:
        """Go back to the sums and the count before an update that is undone, and count that."""
        self.sums = {name: state['sums'].get(name, torch.zeros_like(total)) for name, total in self.sums.items()}
        self.count = state['count']
        self.skipped += 1
