"""Metrics outside the run's folder: Weights & Biases."""

import argparse
import importlib.util
from collections.abc import Mapping
from typing import Any

from ..errors import DebiasError
from .config import TrainConfig


def check_trackers(config: TrainConfig) -> None:
    """Raise `DebiasError` where `--log-wandb` cannot work."""
    run = config.run
    if not run.log_wandb:
        return
    if importlib.util.find_spec('wandb') is None:
        raise DebiasError('--log-wandb needs the package wandb: pip install wandb, or leave the flag out')
    if run.wandb_resume_id and not config.model.resume:
        raise DebiasError('--wandb-resume-id goes on with a run of --resume, and none is given')


def start_trackers(config: TrainConfig, args: argparse.Namespace, name: str) -> None:
    """Begin the run called `name`, which gets the metrics of each epoch by `log_epoch`."""
    run = config.run
    if not run.log_wandb:
        return
    import wandb  # An optional package, checked for before.

    wandb.init(
        project=run.wandb_project,
        name=name,
        config=vars(args),
        tags=run.wandb_tags,
        resume='must' if run.wandb_resume_id else None,
        id=run.wandb_resume_id or None,
    )


def log_epoch(config: TrainConfig, row: Mapping[str, Any]) -> None:
    """Send the row that an epoch has in summary.csv."""
    if not config.run.log_wandb:
        return
    import wandb

    wandb.log(dict(row))
