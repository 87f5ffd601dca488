"""Files of updates whose loss or gradient was not finite, with all it takes to compute them again."""

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from ..errors import DebiasError
from ..ranks import gather
from .checkpoint import ENTRY, read_checkpoint, write_checkpoint
from .config import TrainConfig
from .fsdp import whole
from .loop import Run
from .nonfinite import Batch, Update

UPDATE = 'update'
"""Entry of such a file beside those of a checkpoint."""


def save_update(run: Run, args: argparse.Namespace, folder: Path, update: Update) -> str:
    """Write the update to `nonfinite-<epoch>-<update>-<process>.pt`, with the weights before it; say what was written.

    Processes write whose loss was not finite, or all where only a gradient was not. To be called by all of them.

    Args:
        run: What trains, brought back to before the update.
        args: Its flags.
        folder: Its folder.
        update: The update.

    Raises:
        DebiasError: a file cannot be written.
    """
    losses = [{name: value.item() for name, value in batch.losses.items()} for batch in update.batches]
    is_bad = not all(math.isfinite(batch['loss']) for batch in losses)
    elsewhere = gather(run.machine, lambda: is_bad)
    own = is_bad or not any(elsewhere)
    path = folder / f'nonfinite-{update.epoch}-{update.number}-{run.machine.rank}.pt'
    state = run.task.get_checkpoint_state()
    content: dict[str, Any] = {
        **(whole(state, keep=own) if run.config.device.fsdp else state),
        'arch': args.model,
        'args': args,
        ENTRY: {'serial': 0, 'epoch': update.epoch, 'batch': update.number},
        UPDATE: {
            'batches': [_saved_batch(batch, loss) for batch, loss in zip(update.batches, losses, strict=True)],
            'processes': run.machine.world_size,
            'scale': run.scaler.scale if run.scaler is not None else 1.0,
        },
    }
    gather(run.machine, lambda: write_checkpoint(path, content) if own else None)
    if not own:
        return 'Other processes have saved it'
    saved = f'Its batch, weights and random numbers are in {path}'
    if held_elsewhere(run.config, run.machine.world_size) is not None:
        return saved
    return f'{saved}; `timm-debias replay {path}` computes it again'


def held_elsewhere(config: TrainConfig, processes: int) -> str | None:
    """Return why the file of one process is not enough to compute an update of several again, None where it is."""
    if processes > 1 and config.debias.debias_global_partners:
        return '--debias-global-partners took styles of other processes, which the file does not hold'
    if processes > 1 and config.norm.sync_bn:
        return '--sync-bn took statistics of other processes, which the file does not hold'
    return None


def _saved_batch(batch: Batch, losses: dict[str, float]) -> dict[str, Any]:
    images = batch.images.items() if isinstance(batch.images, dict) else [('images', batch.images)]
    return {
        'images': batch.images,
        'target': batch.target,
        'share': batch.share,
        'random': batch.random,
        'files': list(batch.report.names),
        'losses': losses,
        'ranges': {name: list(value_range(value)) for name, value in images if value.is_floating_point()},
    }


def value_range(values: torch.Tensor) -> tuple[float, float, int]:
    """Return the smallest and the largest finite value, NaN where there is none, and how many are not finite."""
    finite = values.detach()[values.detach().isfinite()].float()
    if not len(finite):
        return math.nan, math.nan, values.numel()
    return finite.min().item(), finite.max().item(), values.numel() - len(finite)


def read_update(path: Path) -> dict[str, Any]:
    """Return what is in a file of `save_update`.

    Raises:
        DebiasError: no such file, or one that holds no update.
    """
    try:
        content = read_checkpoint(path)
    except DebiasError as error:
        raise DebiasError(f'{path}: {error}') from error
    if UPDATE not in content or not isinstance(content.get('args'), argparse.Namespace):
        raise DebiasError(f'{path} holds no update: expected a nonfinite-….pt of a run that stopped')
    return content
