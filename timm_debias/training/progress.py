"""What a run tells of its updates while it trains: a line of the log now and then, and figures of each update."""

import logging
import time
from typing import Any, Protocol

import torch
import torch.distributed as dist
from timm.task.task import TrainingTask

from ..machine import Machine
from ..progress import duration
from ..ranks import on_primary
from ..task import DebiasTask
from .meters import MEASURES, Meters
from .stage_timer import StageTimer
from .trackers import Trackers

_logger = logging.getLogger(__name__)


class Told(Protocol):
    """What `Progress` asks of a run."""

    machine: Machine
    task: TrainingTask
    optimizer: torch.optim.Optimizer
    num_epochs: int
    trackers: Trackers | None

    @property
    def updates_per_epoch(self) -> int:
        """Number of optimizer updates in an epoch."""


class Progress:
    """Gathers figures of each update on the device, and reads them when a line of the log is due or a checkpoint is.

    A row has the numbers of the update (`epoch` and `update` from 0, `step` from 1 over the whole run), `images`, the
    clean ones of all processes, the learning rate `lr`, and the means over those images of what the task returns. The
    rows of updates with a line in the log have the figures of the time since the line before too: `images_per_second`,
    clean ones of all processes, `stylizer_share`, the stylizer's part of that time, `memory_gb`, the most that tensors
    took of the first GPU. Rows of updates that were undone (`--on-nonfinite`) have `skipped`, true. They go to
    `run.trackers` of the first process.

    Args:
        run: What trains.
    """

    def __init__(self, run: Told) -> None:
        self.run = run
        self.timer: StageTimer | None = None
        device = run.machine.device
        if isinstance(run.task, DebiasTask) and run.machine.is_primary and StageTimer.supports(device):
            self.timer = run.task.stylise_timer = StageTimer(device)
        self._rows: list[dict[str, Any]] = []
        self._sums: list[torch.Tensor] = []
        self._names: list[str] = []
        self._batches: list[tuple[dict[str, torch.Tensor], int]] = []
        self._between_epochs = 0.0
        self._epoch_end: float | None = None

    def begin(self, epoch: int, meters: Meters, first_update: int) -> None:
        """Begin an epoch, or go on in it from an update."""
        self.epoch, self.meters, self.first_update = epoch, meters, first_update
        self.start = self.last = time.monotonic()
        self.images = 0
        if self._epoch_end is not None:
            self._between_epochs = self.start - self._epoch_end
        if self.timer is not None:
            self.timer.take()

    def add(self, result: dict[str, torch.Tensor], count: int) -> None:
        """Add the result of a task for a batch of `count` clean images."""
        self._batches.append(({name: result[name].detach() for name in MEASURES if name in result}, count))

    def end_update(self, update: int) -> None:
        """Close the row of an update."""
        self._names = list(self._batches[0][0])
        # float32, as MPS has no float64; one small tensor an update.
        sums = [torch.stack([*result.values()]).float() * count for result, count in self._batches]
        self._sums.append(torch.stack(sums).sum(dim=0))
        images = sum(count for _, count in self._batches)
        self.images += images
        step = self.epoch * self.run.updates_per_epoch + update + 1
        self._rows.append({'step': step, 'epoch': self.epoch, 'update': update, 'images': images, 'lr': self._lr()})
        self._batches = []

    def log(self, update: int) -> None:
        """Write a line of the log in the first process; to be called by all."""
        means = self.meters.compute()  # Waits for the device, so that the clock below is right.
        now = time.monotonic()
        seconds, images = now - self.last, self.images
        self.last = self._epoch_end = now
        self.images = 0
        figures: dict[str, float] = {'images_per_second': images * self.run.machine.world_size / seconds}
        if self.timer is not None:
            figures['stylizer_share'] = self.timer.take() / seconds
        if self.run.machine.device.type == 'cuda':
            figures['memory_gb'] = torch.cuda.max_memory_allocated(self.run.machine.device) / 1e9
        self._rows[-1] |= figures
        self._give(len(self._rows) - 1)  # It is not known yet whether the last one will be undone.
        if self.run.machine.is_primary:
            _logger.info(self._line(update, means, figures, self._time_left(update, now)))

    def undo(self) -> None:
        """Mark the last row's update as undone; what was added since is computed again."""
        self._rows[-1]['skipped'] = True
        self._batches = []

    def flush(self) -> None:
        """Give all rows to the trackers; to be called by all processes, and before each checkpoint.

        Raises:
            DebiasError: a file cannot be written.
        """
        self._give(len(self._rows))

    def _give(self, count: int) -> None:
        """Give the first rows to the trackers."""
        if not count:
            return
        rows, self._rows = self._rows[:count], self._rows[count:]
        totals, self._sums = torch.stack(self._sums[:count]), self._sums[count:]
        images = torch.tensor([row['images'] for row in rows], dtype=torch.float32)
        totals = torch.cat([totals, images.to(totals.device)[:, None]], dim=1)
        if self.run.machine.distributed:
            dist.all_reduce(totals)
        for row, (*sums, number) in zip(rows, totals.tolist(), strict=True):
            means = {name: total / number for name, total in zip(self._names, sums, strict=True)}
            row |= {'images': round(number), **means}
        on_primary(self.run.machine, lambda: self._tell(rows))

    def _tell(self, rows: list[dict[str, Any]]) -> None:
        if self.run.trackers is not None:
            self.run.trackers.log_updates(rows)

    def _lr(self) -> float:
        rates = [group['lr'] for group in self.run.optimizer.param_groups]
        return sum(rates) / len(rates)

    def _time_left(self, update: int, now: float) -> float:
        """Return the seconds to the end of the run, at this epoch's speed and with the last validation's time."""
        updates = self.run.updates_per_epoch
        epochs_left = self.run.num_epochs - self.epoch
        remaining = epochs_left * updates - update - 1
        return remaining * (now - self.start) / (update + 1 - self.first_update) + epochs_left * self._between_epochs

    def _line(self, update: int, means: dict[str, float], figures: dict[str, float], left: float) -> str:
        updates = self.run.updates_per_epoch
        parts = [
            f'Train: {self.epoch} [{update:>4d}/{updates} ({100 * (update + 1) / updates:>3.0f}%)]',
            f'Loss: {means["loss"]:#.3g}',
        ]
        if 'loss_clean' in means:
            parts += [
                f'clean: {means["loss_clean"]:.3g}, {means["top1_clean"]:.1f} %',
                f'stylised: {means["loss_stylised"]:.3g}, {means["top1_stylised"]:.1f} %',
            ]
        parts += [f'LR: {self._lr():.3e}', f'{figures["images_per_second"]:.1f} images/s']
        if 'stylizer_share' in figures:
            parts.append(f'stylizer: {100 * figures["stylizer_share"]:.0f} %')
        if 'memory_gb' in figures:
            parts.append(f'memory: {figures["memory_gb"]:.1f} GB')
        return '  '.join([*parts, f'left: {duration(left)}'])
