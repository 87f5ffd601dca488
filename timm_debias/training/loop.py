"""One epoch of training, read from top to bottom."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.task.task import TrainingTask
from timm.utils import dispatch_clip_grad

from ..errors import DebiasError
from ..machine import Machine
from ..task import DebiasTask
from .batches import batch_length, loss_scale
from .config import TrainConfig
from .freeze import train_classifier
from .meters import Meters
from .nonfinite import Batch, FiniteGuard
from .precision import LossScaler
from .progress import Progress
from .randomness import set_random_states
from .seeded_loader import SeededLoader
from .signals import StopSignals
from .trackers import Trackers

LOSSES = ('loss', 'loss_clean', 'loss_stylised')


@dataclass
class Run:
    """The parts of a run that its epochs share."""

    config: TrainConfig
    machine: Machine
    task: TrainingTask
    loader: SeededLoader
    optimizer: torch.optim.Optimizer
    scheduler: Any = None
    scaler: LossScaler | None = None
    autocast: Callable[[], AbstractContextManager] = nullcontext
    mixup_fn: Any = None
    num_epochs: int = 0
    mean_batch_size: float = 1.0
    on_log: Callable[[torch.Tensor, int, int], None] | None = None
    """Called as (images, epoch, update) whenever a line is logged, in the primary process."""
    on_update: Callable[[int, int, Meters], None] | None = None
    """Called as (epoch, batches so far, meters) after each update but the last of an epoch, in every process."""
    trackers: Trackers | None = None
    """Where the figures of each update go, in the primary process."""

    bad_in_validation: list[list[Any]] = field(default_factory=list)
    """Rows of this process's images that validation could not read last."""

    def __post_init__(self) -> None:
        self.guard = FiniteGuard(self.config.faults.on_nonfinite, self.machine, self.task, self.optimizer)
        self.progress = Progress(self)
        self.stop = StopSignals(self.machine)

    @property
    def model(self) -> Any:
        """The module that trains, wrapped or not."""
        return self.task.get_trainable_module()

    @property
    def updates_per_epoch(self) -> int:
        """Number of optimizer updates in an epoch; the last may come from fewer batches."""
        return -(-len(self.loader) // self.config.model.grad_accum_steps)


def train_one_epoch(run: Run, epoch: int, meters: Meters, first_batch: int = 0) -> None:
    """Train for one epoch, or from one of its batches on.

    Args:
        run: What trains.
        epoch: Number of the epoch.
        meters: Where the means over the epoch are gathered; it may hold those of the batches before.
        first_batch: Batch to start with, the first of an update.
    """
    run.loader.set_position(epoch, first_batch)
    _set_mixing(run, epoch)
    if run.config.model.freeze_backbone:
        train_classifier(run.model)
    else:
        run.model.train()
    run.optimizer.zero_grad()
    accum_steps = run.config.model.grad_accum_steps
    run.progress.begin(epoch, meters, first_batch // accum_steps)
    batches = len(run.loader)
    for batch, (images, target) in enumerate(run.loader, start=first_batch):
        update, place = divmod(batch, accum_steps)
        group = min(accum_steps, batches - update * accum_steps)  # The last group may be smaller.
        is_update = place == group - 1
        images, target = _to_device(run, images, target)
        if place == 0:
            run.guard.begin(epoch, update, {'sums': dict(meters.sums), 'count': meters.count})
        meters.bad += [bad.row() for bad in run.loader.report.bad]
        batch_held = run.guard.hold(images, target, 1 / group, run.loader.report)
        _accumulate(run, batch_held, is_update, meters)
        if not is_update:
            continue
        if settle(run, meters):  # The update before this one is undone, and this one was computed after it.
            _compute_again(run, meters)
        _step(run)
        run.optimizer.zero_grad()
        _synchronize(run)
        updates = epoch * run.updates_per_epoch + update + 1
        run.task.update_ema(step=updates)
        run.progress.end_update(update)
        if update % run.config.run.log_interval == 0 or update == run.updates_per_epoch - 1:
            run.progress.log(update)
            if run.on_log is not None and run.machine.is_primary:
                run.on_log(images, epoch, update)
        if run.scheduler is not None:
            run.scheduler.step_update(num_updates=updates)
        if run.on_update is not None and batch + 1 < batches:
            run.on_update(epoch, batch + 1, meters)
    settle(run, meters)
    run.progress.flush()
    if hasattr(run.optimizer, 'sync_lookahead'):
        run.optimizer.sync_lookahead()


def settle(run: Run, meters: Meters) -> bool:
    """Wait until it is known whether the last update was finite; return whether it was not and is undone.

    To be called before anything is saved.

    Raises:
        DebiasError: it was not, and training is to stop.
    """
    try:
        undone = run.guard.undone()
    except DebiasError:
        run.progress.flush()
        raise
    if undone is not None:
        meters.undo(undone.meters)
        run.progress.undo()
    return undone is not None


def _accumulate(run: Run, batch: Batch, is_last: bool, meters: Meters) -> None:
    """Add the gradients of a batch to those of its update."""
    update = run.guard.update
    if isinstance(run.task, DebiasTask) and update is not None:
        run.task.set_position(update.epoch, update.number)
    with nullcontext() if is_last else run.task.no_sync():
        with run.autocast():
            result = run.task(batch.images, batch.target)
        length = batch_length(batch.images)
        loss = result['loss'] * loss_scale(run.config, length, run.mean_batch_size, run.machine) * batch.share
        second_order = getattr(run.optimizer, 'is_second_order', False)
        if run.scaler is not None:
            run.scaler.backward(loss, create_graph=second_order)
        else:
            loss.backward(create_graph=second_order)
    batch.losses = {name: result[name].detach() for name in LOSSES if name in result}
    meters.update(result, length)
    run.progress.add(result, length)


def _compute_again(run: Run, meters: Meters) -> None:
    """Compute the gradients of the update that has begun from its batches, with the same random numbers."""
    assert run.guard.update is not None
    batches = run.guard.update.batches
    for batch in batches:
        set_random_states(run.task, batch.random, run.machine.device)
        _accumulate(run, batch, batch is batches[-1], meters)


def _step(run: Run) -> None:
    """Step the optimizer, with clipped gradients if so asked."""
    clip, mode = run.config.optimizer.clip_grad, run.config.optimizer.clip_mode
    parameters = run.task.get_clip_parameters(exclude_head='agc' in mode) if clip is not None else None
    scaler = run.scaler
    if scaler is not None:
        run.guard.step(lambda: scaler.step(run.optimizer, clip, mode, parameters), lambda: scaler.scale < 1)
        return

    def step() -> None:
        if clip is not None:
            dispatch_clip_grad(parameters, value=clip, mode=mode)
        run.optimizer.step()

    run.guard.step(step)


def _set_mixing(run: Run, epoch: int) -> None:
    """Switch the mixing in the training process off where its time is over; the loader sees to its own."""
    off_epoch = run.config.augment.mixup_off_epoch
    mixer = run.task.clean_augment if isinstance(run.task, DebiasTask) else run.mixup_fn
    if mixer is not None and off_epoch and epoch >= off_epoch:
        mixer.mixup_enabled = False


def _to_device(run: Run, images: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if run.config.run.no_prefetcher:
        images = images.to(device=run.machine.device, dtype=next(run.model.parameters()).dtype)
        target = target.to(device=run.machine.device)
        if run.mixup_fn is not None:
            images, target = run.mixup_fn(images, target)
    if run.config.model.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return images, target


def _synchronize(run: Run) -> None:
    """Wait for the device, where `--synchronize-step` asks for it."""
    device = run.machine.device.type
    if run.config.device.synchronize_step and device in ('cuda', 'npu'):
        getattr(torch, device).synchronize()
