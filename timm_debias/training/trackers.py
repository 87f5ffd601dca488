"""Where the figures of a run go beside its log: metrics.jsonl, TensorBoard, Weights & Biases."""

import argparse
import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DebiasError
from .config import TrainConfig
from .metrics_file import MetricsFile

_PLACE = ('step', 'epoch', 'update')
"""What says where a row is, and is no figure."""


def check_trackers(config: TrainConfig) -> None:
    """Raise `DebiasError` where `--log-wandb` or `--log-tensorboard` cannot work."""
    run = config.run
    if run.log_wandb and importlib.util.find_spec('wandb') is None:
        raise DebiasError('--log-wandb needs the package wandb: pip install wandb, or leave the flag out')
    if run.log_wandb and run.wandb_resume_id and not config.model.resume:
        raise DebiasError('--wandb-resume-id goes on with a run of --resume, and none is given')
    if run.log_tensorboard and importlib.util.find_spec('tensorboard') is None:
        raise DebiasError(
            "--log-tensorboard needs the package tensorboard: pip install 'timm-debias[tensorboard]', or leave the "
            'flag out'
        )


class Trackers:
    """Writes the figures of a run; there is one, in the primary process.

    Args:
        config: What is trained.
        args: Its flags, for Weights & Biases.
        folder: The run's folder.
        place: Epoch and update that the run starts with.
        updates_per_epoch: Number of updates in an epoch.

    Raises:
        DebiasError: metrics.jsonl cannot be gone on with.
    """

    def __init__(
        self,
        config: TrainConfig,
        args: argparse.Namespace,
        folder: Path,
        place: tuple[int, int],
        updates_per_epoch: int,
    ) -> None:
        self.updates_per_epoch = updates_per_epoch
        self.file = MetricsFile(folder / 'metrics.jsonl', *place)
        self.wandb = _start_wandb(config, args, folder.name) if config.run.log_wandb else None
        self.board: Any = None
        if config.run.log_tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # Needs an optional package, checked for before.

            epoch, update = place
            # What the run does again is dropped, by whoever reads the files.
            self.board = SummaryWriter(str(folder / 'tensorboard'), purge_step=epoch * updates_per_epoch + update + 1)

    def log_updates(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows of `Progress`.

        Raises:
            DebiasError: metrics.jsonl cannot be written.
        """
        self.file.append(rows)
        for row in rows:
            self._scalars('train', row, row['step'])
        self._flush()

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Write the row that an epoch has in summary.csv.

        Raises:
            DebiasError: metrics.jsonl cannot be written.
        """
        step = (row['epoch'] + 1) * self.updates_per_epoch
        self.file.append([{'step': step, **row}])
        self._scalars('epoch', row, step)
        self._flush()
        if self.wandb is not None:
            self.wandb.log(dict(row))

    def _scalars(self, group: str, row: Mapping[str, Any], step: int) -> None:
        if self.board is None:
            return
        for name, value in row.items():
            if name not in _PLACE and isinstance(value, (int, float)) and math.isfinite(value):
                self.board.add_scalar(f'{group}/{name}', value, step)

    def _flush(self) -> None:
        if self.board is not None:
            self.board.flush()


def _start_wandb(config: TrainConfig, args: argparse.Namespace, name: str) -> Any:
    import wandb  # An optional package, checked for before.

    run = config.run
    wandb.init(
        project=run.wandb_project,
        name=name,
        config=vars(args),
        tags=run.wandb_tags,
        resume='must' if run.wandb_resume_id else None,
        id=run.wandb_resume_id or None,
    )
    return wandb
