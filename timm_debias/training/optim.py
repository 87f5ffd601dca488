"""Builds the optimizer and the learning rate schedule."""

import logging
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from torch import nn

from ..errors import DebiasError, reason
from ..machine import Machine
from .config import TrainConfig
from .warmup_multistep import WARMUP_MULTISTEP, WarmupMultiStepLRScheduler

_logger = logging.getLogger(__name__)


def resolve_lr(config: TrainConfig, mean_batch_size: float, machine: Machine) -> TrainConfig:
    """Return the configuration with `lr` worked out from the base rate where it is not given, as timm does.

    Args:
        config: What to train.
        mean_batch_size: Mean number of images in the batch of a process.
        machine: Where this process runs.
    """
    schedule = config.schedule
    if schedule.lr:
        return config
    batch_size = mean_batch_size * machine.world_size * config.model.grad_accum_steps
    ratio = batch_size / schedule.lr_base_size
    scale = schedule.lr_base_scale
    if not scale:
        scale = 'sqrt' if any(name in config.optimizer.opt.lower() for name in ('ada', 'lamb')) else 'linear'
    lr = schedule.lr_base * (ratio**0.5 if scale == 'sqrt' else ratio)
    if machine.is_primary:
        _logger.info(
            f'Learning rate {lr:g} from base rate {schedule.lr_base:g}, batch {batch_size:g}, {scale} scaling.'
        )
    return replace(config, schedule=replace(schedule, lr=lr))


def build_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Create timm's optimizer over the parameters of `model`."""
    options = optimizer_kwargs(cfg=SimpleNamespace(**vars(config.optimizer), lr=config.schedule.lr))
    try:
        return create_optimizer_v2(model, **options, **config.optimizer.opt_kwargs)
    except (AssertionError, ValueError, TypeError) as error:
        raise DebiasError(f'--opt {config.optimizer.opt}: {reason(error)}') from error
    except IndexError as error:  # Some take one beta, most two, and a few three.
        betas = ' '.join(f'{beta:g}' for beta in config.optimizer.opt_betas or [])
        raise DebiasError(f'--opt {config.optimizer.opt} takes more --opt-betas than {betas}') from error


def last_epoch(config: TrainConfig, num_epochs: int) -> int:
    """Return after how many epochs to stop: `--stop-epoch`, or all `num_epochs` of the schedule.

    Raises:
        DebiasError: `--stop-epoch` or `--save-epochs` beyond the schedule, or a `--start-epoch` that leaves no epoch.
    """
    start, stop, milestones = config.schedule.start_epoch, config.schedule.stop_epoch, config.run.save_epochs or []
    for flag, epoch in (('--stop-epoch', stop), ('--save-epochs', max(milestones, default=None))):
        if epoch is not None and epoch > num_epochs:
            raise DebiasError(f'{flag} is {epoch} and the schedule has {num_epochs} epochs')
    last = num_epochs if stop is None else stop
    if start is not None and start >= last:
        raise DebiasError(f'--start-epoch {start} leaves nothing to train: the run ends with epoch {last - 1}')
    return last


def build_scheduler(config: TrainConfig, optimizer: torch.optim.Optimizer, updates_per_epoch: int) -> tuple[Any, int]:
    """Create the schedule and return it with the number of epochs it asks for."""
    schedule = config.schedule
    if schedule.sched == WARMUP_MULTISTEP:
        milestones = [epoch * updates_per_epoch for epoch in schedule.decay_milestones]
        warmup_updates = schedule.warmup_epochs * updates_per_epoch
        scheduler = WarmupMultiStepLRScheduler(
            optimizer, milestones, schedule.decay_rate, warmup_updates, schedule.warmup_lr
        )
        return scheduler, schedule.epochs
    options = SimpleNamespace(**vars(schedule), seed=config.run.seed, eval_metric=config.run.eval_metric)
    decreasing = config.run.eval_metric == 'loss' or not config.data.val_split
    try:
        return create_scheduler_v2(
            optimizer, **scheduler_kwargs(options, decreasing_metric=decreasing), updates_per_epoch=updates_per_epoch
        )
    except (AssertionError, ValueError) as error:
        raise DebiasError(f'--sched {schedule.sched}: {reason(error)}') from error


def lr_stage_ends(config: TrainConfig) -> tuple[float, ...]:
    """Return the epochs at which the stages of the learning rate end; the last is the number of epochs.

    A stage lies between two decays of a schedule with steps, the warm-up being part of the first. A schedule that falls
    all the time (cosine, poly, …) or never is one stage.
    """
    schedule = config.schedule
    _, num_epochs = build_scheduler(config, torch.optim.SGD([torch.zeros(1)], lr=1.0), updates_per_epoch=1)
    start = schedule.warmup_epochs if schedule.warmup_prefix else 0
    decays: list[float] = []
    if schedule.sched == WARMUP_MULTISTEP:
        decays = list(schedule.decay_milestones)
    elif schedule.sched == 'multistep':
        # Stepped by epochs, timm's decays one epoch early; stepped by updates, one update.
        early = 0 if schedule.sched_on_updates else 1
        decays = [start + epoch - early for epoch in schedule.decay_milestones]
    elif schedule.sched == 'step':
        every = 90.0 if schedule.decay_epochs is None else schedule.decay_epochs  # timm's default.
        count = math.ceil((num_epochs - start) / every) if every > 0 else 0
        decays = [start + number * every for number in range(1, count)]
    return (*sorted({epoch for epoch in decays if 0 < epoch < num_epochs}), num_epochs)
