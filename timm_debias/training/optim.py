"""Builds the optimizer and the learning rate schedule."""

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from torch import nn

from ..errors import DebiasError
from .config import TrainConfig
from .machine import Machine

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
        raise DebiasError(f'--opt {config.optimizer.opt}: {" ".join(str(error).split())}') from error


def build_scheduler(
    config: TrainConfig, optimizer: torch.optim.Optimizer, updates_per_epoch: int, start_epoch: int
) -> tuple[Any, int]:
    """Create timm's schedule, moved to `start_epoch`, and return it with the number of epochs it asks for."""
    options = SimpleNamespace(**vars(config.schedule), seed=config.run.seed, eval_metric=config.run.eval_metric)
    decreasing = config.run.eval_metric == 'loss' or not config.data.val_split
    try:
        scheduler, num_epochs = create_scheduler_v2(
            optimizer, **scheduler_kwargs(options, decreasing_metric=decreasing), updates_per_epoch=updates_per_epoch
        )
    except (AssertionError, ValueError) as error:
        raise DebiasError(f'--sched {config.schedule.sched}: {" ".join(str(error).split())}') from error
    if scheduler is None or start_epoch == 0:
        return scheduler, num_epochs
    if config.schedule.sched_on_updates:
        scheduler.step_update(start_epoch * updates_per_epoch)
    else:
        scheduler.step(start_epoch)
    return scheduler, num_epochs


def last_epoch(config: TrainConfig, num_epochs: int) -> int:
    """Return after how many epochs to stop: `--stop-epoch`, or all `num_epochs` of the schedule.

    Raises:
        DebiasError: `--stop-epoch` or `--save-epochs` beyond the schedule.
    """
    stop, milestones = config.schedule.stop_epoch, config.run.save_epochs or []
    for flag, epoch in (('--stop-epoch', stop), ('--save-epochs', max(milestones, default=None))):
        if epoch is not None and epoch > num_epochs:
            raise DebiasError(f'{flag} is {epoch} and the schedule has {num_epochs} epochs')
    return num_epochs if stop is None else stop
