"""One epoch of training, read from top to bottom."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from timm.task.task import TrainingTask
from timm.utils import CheckpointSaver, NativeScaler, dispatch_clip_grad

from .batches import batch_length, loss_scale
from .config import TrainConfig
from .freeze import train_classifier
from .machine import Machine

_logger = logging.getLogger(__name__)

_METERS = ('loss', 'loss_clean', 'loss_stylised', 'top1_clean', 'top1_stylised')
"""Entries of a task's result that are averaged over an epoch, where the task gives them."""


@dataclass
class Run:
    """The parts of a run that its epochs share."""

    config: TrainConfig
    machine: Machine
    task: TrainingTask
    loader: Any
    optimizer: torch.optim.Optimizer
    scheduler: Any = None
    scaler: NativeScaler | None = None
    autocast: Callable[[], AbstractContextManager] = nullcontext
    mixup_fn: Any = None
    saver: CheckpointSaver | None = None
    num_epochs: int = 0
    mean_batch_size: float = 1.0
    on_log: Callable[[torch.Tensor, int, int], None] | None = None
    """Called as (images, epoch, update) whenever a line is logged, in the primary process."""

    @property
    def model(self) -> Any:
        """The module that trains, wrapped or not."""
        return self.task.get_trainable_module()

    @property
    def updates_per_epoch(self) -> int:
        """Number of optimizer updates in an epoch; the last may come from fewer batches."""
        return -(-len(self.loader) // self.config.model.grad_accum_steps)


def train_one_epoch(run: Run, epoch: int) -> 'OrderedDict[str, float]':
    """Train for one epoch and return the means over it: `loss`, and with --debias those of the two halves."""
    _set_epoch(run, epoch)
    if run.config.model.freeze_backbone:
        train_classifier(run.model)
    else:
        run.model.train()
    run.optimizer.zero_grad()
    meters = _Meters(run.machine)
    progress = _Progress(run, epoch)
    accum_steps = run.config.model.grad_accum_steps
    batches = len(run.loader)
    for batch, (images, target) in enumerate(run.loader):
        update, place = divmod(batch, accum_steps)
        group = min(accum_steps, batches - update * accum_steps)  # The last group may be smaller.
        is_update = place == group - 1
        images, target = _to_device(run, images, target)
        with nullcontext() if is_update else run.task.no_sync():
            with run.autocast():
                result = run.task(images, target)
            length = batch_length(images)
            scale = loss_scale(run.config, length, run.mean_batch_size, run.machine)
            _backward(run, result['loss'] * scale / group, is_update)
        meters.update(result, length)
        if not is_update:
            continue
        run.optimizer.zero_grad()
        _synchronize(run)
        updates = epoch * run.updates_per_epoch + update + 1
        run.task.update_ema(step=updates)
        if update % run.config.run.log_interval == 0 or update == run.updates_per_epoch - 1:
            progress.log(update, meters)
            if run.on_log is not None and run.machine.is_primary:
                run.on_log(images, epoch, update)
        interval = run.config.run.recovery_interval
        if run.saver is not None and interval and (update + 1) % interval == 0:
            run.saver.save_recovery(epoch, batch_idx=update)
        if run.scheduler is not None:
            run.scheduler.step_update(num_updates=updates)
    if hasattr(run.optimizer, 'sync_lookahead'):
        run.optimizer.sync_lookahead()
    return meters.compute()


def _set_epoch(run: Run, epoch: int) -> None:
    loader, off_epoch = run.loader, run.config.augment.mixup_off_epoch
    for part in (loader.dataset, loader.batch_sampler, loader.sampler):
        if hasattr(part, 'set_epoch'):
            part.set_epoch(epoch)
    if off_epoch and epoch >= off_epoch:
        mixer = loader if run.mixup_fn is None else run.mixup_fn
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


def _backward(run: Run, loss: torch.Tensor, is_update: bool) -> None:
    clip, mode = run.config.optimizer.clip_grad, run.config.optimizer.clip_mode
    second_order = getattr(run.optimizer, 'is_second_order', False)
    parameters = run.task.get_clip_parameters(exclude_head='agc' in mode) if clip is not None else None
    if run.scaler is not None:
        run.scaler(
            loss,
            run.optimizer,
            clip_grad=clip,
            clip_mode=mode,
            parameters=parameters,
            create_graph=second_order,
            need_update=is_update,
        )
        return
    loss.backward(create_graph=second_order)
    if is_update:
        if clip is not None:
            dispatch_clip_grad(parameters, value=clip, mode=mode)
        run.optimizer.step()


class _Meters:
    """Means over the images of an epoch, summed on the device so that no step waits for the host."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0

    def update(self, result: dict[str, torch.Tensor], count: int) -> None:
        self.count += count
        for name in _METERS:
            if name in result:
                # float32 on the device: MPS has no float64, and an epoch's sum keeps 6 digits.
                value = result[name].detach().float() * count
                self.sums[name] = self.sums[name] + value if name in self.sums else value

    def compute(self) -> 'OrderedDict[str, float]':
        means = OrderedDict((name, total / max(self.count, 1)) for name, total in self.sums.items())
        if self.machine.distributed:
            for mean in means.values():
                dist.all_reduce(mean)
                mean /= self.machine.world_size
        return OrderedDict((name, mean.item()) for name, mean in means.items())


class _Progress:
    """Writes the line of the log: loss, the two halves, speed counted in clean images, and the time left."""

    def __init__(self, run: Run, epoch: int) -> None:
        self.run = run
        self.epoch = epoch
        self.start = time.monotonic()

    def log(self, update: int, meters: _Meters) -> None:
        means = meters.compute()
        if not self.run.machine.is_primary:
            return
        updates = self.run.updates_per_epoch
        seconds = time.monotonic() - self.start
        remaining = (self.run.num_epochs - self.epoch) * updates - update - 1
        left = time.strftime('%H:%M:%S', time.gmtime(seconds / (update + 1) * remaining))
        halves = ''
        if 'loss_clean' in means:
            halves = (
                f'clean: {means["loss_clean"]:.3g}, {means["top1_clean"]:.1f} %  '
                f'stylised: {means["loss_stylised"]:.3g}, {means["top1_stylised"]:.1f} %  '
            )
        rates = [group['lr'] for group in self.run.optimizer.param_groups]
        speed = meters.count * self.run.machine.world_size / seconds
        _logger.info(
            f'Train: {self.epoch} [{update:>4d}/{updates} ({100 * (update + 1) / updates:>3.0f}%)]  '
            f'Loss: {means["loss"]:#.3g}  {halves}LR: {sum(rates) / len(rates):.3e}  {speed:.1f} images/s  left: {left}'
        )
