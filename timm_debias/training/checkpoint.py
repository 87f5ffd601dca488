"""Resuming a run from its checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.task import load_task_ema_checkpoint, resume_task_checkpoint
from timm.task.task import TrainingTask
from timm.utils import NativeScaler

from ..errors import DebiasError
from .config import TrainConfig
from .machine import Machine

DEFAULT_OUTPUT = './output/train'
"""Folder of runs where `--output` is empty."""


def resolve_resume(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the path that `--resume auto` stands for, empty where the run has yet to begin."""
    if config.model.resume != 'auto':
        return config
    last = Path(config.run.output or DEFAULT_OUTPUT) / config.run.experiment / 'last.pth.tar'
    return replace(config, model=replace(config.model, resume=str(last) if last.exists() else ''))


def resume(
    config: TrainConfig,
    task: TrainingTask,
    optimizer: torch.optim.Optimizer,
    scaler: NativeScaler | None,
    machine: Machine,
) -> int:
    """Load `--resume` into task and optimizer and return the number of the epoch to start with."""
    path = config.model.resume
    epoch = None
    if path:
        keep_optimizer = not config.model.no_resume_opt
        epoch = _load(
            path,
            resume_task_checkpoint,
            task,
            path,
            optimizer=optimizer if keep_optimizer else None,
            loss_scaler=scaler if keep_optimizer else None,
            log_info=machine.is_primary,
        )
    return config.schedule.start_epoch if config.schedule.start_epoch is not None else epoch or 0


def resume_ema(config: TrainConfig, task: TrainingTask) -> None:
    """Load the moving average of `--resume` into the task."""
    if config.model.resume:
        _load(config.model.resume, load_task_ema_checkpoint, task, config.model.resume)


def _load(path: str, load: Any, *args: Any, **options: Any) -> Any:
    try:
        return load(*args, **options)
    except DebiasError as error:
        raise DebiasError(f'--resume {path}: {error}') from error
    except Exception as error:  # On garbage, the restricted unpickler raises almost anything.
        reason = ' '.join(str(error).split())[:300]
        raise DebiasError(f'--resume {path}: not a checkpoint of this model ({reason})') from error
