"""Losses and gradients that are NaN or infinite: training stops, or the update is undone (`--on-nonfinite`).

Whether an update was finite is computed on the device and copied to the host behind it; the host looks at the copy
before the next update changes the weights. By then the copy has arrived, so that the device never runs out of work.
What the update has changed is brought back from copies on the device. The next update, whose loss and gradients came
from the weights that are undone, is computed again from the same batches and random numbers, so that what follows is
what it would have been had the host waited.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from timm.task.task import TrainingTask
from torch import nn
from torch.nn.utils import get_total_norm

from ..errors import DebiasError
from ..machine import Machine
from .bad_images import Report
from .fsdp import own_part
from .randomness import random_states
from .snapshot import OptimizerSnapshot, TensorSnapshot

_logger = logging.getLogger(__name__)

MAX_SKIPPED = 10
"""Updates in a row that `skip` undoes; at the next one training stops."""


@dataclass
class Batch:
    """A batch as the task got it.

    Attributes:
        images: Normalised images [B, C, H, W], or the dict of a NaFlex loader.
        target: Its target.
        share: Factor on its loss in the update: 1 / number of its batches.
        report: What it is made of.
        random: State of all generators before its forward pass.
        losses: What the task returned of it, as scalars on the device.
    """

    images: Any
    target: torch.Tensor
    share: float
    report: Report
    random: dict[str, Any]
    losses: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class Update:
    """An update whose outcome the host does not know yet.

    Attributes:
        epoch: Number of its epoch.
        number: Number of the update in the epoch.
        meters: Sums and count of the meters before it.
        buffers: Batch norm statistics before it.
        batches: What it is computed from.
        finite: Whether loss and gradients are finite, in all processes.
    """

    epoch: int
    number: int
    meters: dict[str, Any]
    buffers: TensorSnapshot
    batches: list[Batch] = field(default_factory=list)
    finite: 'HostFlag | None' = None


class HostFlag:
    """A truth value on a device, on its way to the host."""

    def __init__(self, flag: torch.Tensor) -> None:
        self._flag = flag
        self._event: Any = None
        if flag.device.type == 'cuda':
            self._flag = torch.empty(flag.shape, dtype=flag.dtype, pin_memory=True)
            self._flag.copy_(flag, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def __bool__(self) -> bool:
        if self._event is not None:
            self._event.synchronize()
        return bool(self._flag)


class FiniteGuard:
    """Watches over the updates of a run.

    It keeps a copy of the weights on their device, with `skip` also of the optimizer's state and of the moving average,
    and the images of two updates. With `ignore` it keeps nothing and looks at nothing.

    Args:
        policy: `stop`, `skip` or `ignore`.
        machine: Where this process runs.
        task: What trains.
        optimizer: Its optimizer.

    Attributes:
        skipped_in_a_row: Updates that were undone since the last that was not.
        save: Writes what it takes to compute an update again and returns where; it is called with the update's state
            brought back. Nothing is written where None.
    """

    def __init__(self, policy: str, machine: Machine, task: TrainingTask, optimizer: torch.optim.Optimizer) -> None:
        self.policy = policy
        self.machine = machine
        self.task = task
        self.optimizer = optimizer
        self.skipped_in_a_row = 0
        self.save: Callable[[Update], str] | None = None
        self.update: Update | None = None
        self._before: Update | None = None
        self._weights = TensorSnapshot()
        self._ema = TensorSnapshot()
        self._state = OptimizerSnapshot(optimizer)
        self._buffers = TensorSnapshot(), TensorSnapshot()

    def begin(self, epoch: int, number: int, meters: dict[str, Any]) -> None:
        """Begin an update, before its first forward pass, with the state of the meters."""
        # The other of the two holds those before the last update, which may have to be undone.
        in_use = self._before.buffers if self._before is not None else None
        buffers = self._buffers[1] if in_use is self._buffers[0] else self._buffers[0]
        if self.policy != 'ignore':
            buffers.take(self._module().buffers())
        self.update = Update(epoch, number, meters, buffers)

    def hold(self, images: Any, target: torch.Tensor, share: float, report: Report) -> Batch:
        """Keep a batch of the update, and the random numbers that its forward pass will draw; return it."""
        assert self.update is not None
        if self.policy == 'ignore':
            return Batch(images, target, share, report, random={})
        batch = Batch(images, target, share, report, random_states(self.task, self.machine.device))
        self.update.batches.append(batch)
        return batch

    def undone(self) -> Update | None:
        """Look at the update before this one: return it, undone, where it was not finite; else None.

        To be called by all processes between the gradients of an update and its step, and after the last update before
        a checkpoint.

        Raises:
            DebiasError: it was not finite and the policy is to stop, or too many were not.
        """
        before, self._before = self._before, None
        if before is None or before.finite is None:
            return None
        if before.finite:
            self.skipped_in_a_row = 0
            return None
        self._weights.restore()
        before.buffers.restore()
        self.skipped_in_a_row += 1
        where = f'epoch {before.epoch}, update {before.number}'
        if self.policy == 'stop' or self.skipped_in_a_row > MAX_SKIPPED:
            count = f' {MAX_SKIPPED + 1} times in a row' if self.policy == 'skip' else ''
            saved = f' {self.save(before)}.' if self.save is not None else ''
            raise DebiasError(f'{where}: loss or gradient is not finite{count}.{saved}')
        self._state.restore()
        self._ema.restore()
        self.optimizer.zero_grad()
        if self.update is not None:
            self.update.meters = before.meters
            self.update.buffers.take(self._module().buffers())
        _logger.warning(f'{where.capitalize()}: loss or gradient is not finite; the update is undone.')
        return before

    def step(self, step: Callable[[], None], overflowed: Callable[[], bool] | None = None) -> None:
        """Step the optimizer and let the host know later whether the step was finite.

        Args:
            step: Steps the optimizer.
            overflowed: Tells after the step, of a run whose loss is scaled, whether its scale fell below 1. A gradient
                that overflows at a larger scale is the scaler's affair.
        """
        update = self.update
        assert update is not None
        if self.policy == 'ignore':
            step()
            self.update = None
            return
        finite = _all_finite([batch.losses['loss'] for batch in update.batches], self.machine.device)
        if overflowed is None:
            finite &= _all_finite(list(_gradients(self.optimizer)), self.machine.device)
        self._take()
        step()
        if overflowed is not None and overflowed():
            finite.fill_(False)
        if self.machine.distributed:
            number = finite.float()
            dist.all_reduce(number, dist.ReduceOp.MIN)
            finite = number > 0
        update.finite = HostFlag(finite)
        self._before, self.update = update, None

    def _module(self, ema: bool = False) -> nn.Module:
        module = self.task.get_trainable_module(ema=ema)
        assert module is not None
        return module

    @torch.no_grad()
    def _take(self) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group['params']]
        self._weights.take(parameters)
        if self.policy == 'stop':
            return
        self._state.take()
        if self.task.has_ema():
            module = self._module(ema=True)
            self._ema.take([*module.parameters(), *module.buffers()])


@torch.no_grad()
def _all_finite(tensors: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Return whether all values are finite, as a scalar on the device."""
    # Of sharded gradients each process looks at its part, which may be empty.
    tensors = [part for part in (own_part(tensor.detach()) for tensor in tensors) if part.numel()]
    if not tensors:
        return torch.ones((), dtype=torch.bool, device=device)
    # The largest absolute value: a NaN or infinite one shows in it, and it cannot overflow as a sum can.
    return get_total_norm(tensors, math.inf).isfinite().to(device)


def _gradients(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for group in optimizer.param_groups:
        for parameter in group['params']:
            if parameter.grad is not None:
                yield parameter.grad
