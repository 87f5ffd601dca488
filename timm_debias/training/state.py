"""What a checkpoint holds of a run, and how a run goes on from it as if it had not been stopped."""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.models import clean_state_dict
from timm.scheduler import PlateauLRScheduler
from timm.utils.model import unwrap_model

from .. import __version__
from ..errors import DebiasError, reason
from ..ranks import gather
from ..weight_files import check_finite
from .checkpoint import ENTRY
from .fsdp import shared_out, whole
from .loop import Run
from .meters import Meters
from .randomness import derive_seed, random_states, seed_host, set_random_states

_logger = logging.getLogger(__name__)

_PLATEAU_COUNTERS = ('best', 'num_bad_epochs', 'cooldown_counter', 'last_epoch')
_SAME_RUN = ('resume', 'config', 'output', 'experiment', 'local_rank')
"""Flags in which a run may differ from its checkpoint without a line in the log."""


class Position(NamedTuple):
    """Where a run is: the number of the epoch, and how many of its batches a process has trained on.

    All batches of an epoch stand for an epoch that is trained and not yet validated.
    """

    epoch: int = 0
    batch: int = 0


def capture(
    run: Run, args: argparse.Namespace, position: Position, meters: Meters | None, results: list[dict]
) -> dict[str, Any]:
    """Return the content of a checkpoint in the first process, and {} in the others; to be called by all.

    Tensors are those of the run, not copies.

    Args:
        run: What trains.
        args: Its flags.
        position: Where it is.
        meters: Means over the epoch so far, None between epochs.
        results: What came out of the epochs before.
    """
    processes = gather(run.machine, lambda: _process_state(run, meters))
    sharded = run.config.device.fsdp
    if not run.machine.is_primary and not sharded:
        return {}
    tensors = {
        'optimizer': run.optimizer.state_dict(),
        **run.task.get_checkpoint_state(),
        **run.task.get_checkpoint_state(ema=True),
    }
    if sharded:
        tensors = whole(tensors, keep=run.machine.is_primary)
    if not run.machine.is_primary:
        return {}
    content: dict[str, Any] = {
        # timm's names. Its `epoch` is the last that began; timm goes on with the next.
        'epoch': position.epoch if position.batch else position.epoch - 1,
        'arch': args.model,
        'args': args,
        'version': 2,
        **tensors,
    }
    if run.scaler is not None:
        content[run.scaler.state_dict_key] = run.scaler.state_dict()
    content[ENTRY] = {
        'package': __version__,
        'epoch': position.epoch,
        'batch': position.batch,
        'batch_size': run.config.model.batch_size,
        'processes': processes,
        'scheduler': _plateau_state(run),
        'results': results,
    }
    return content


def restore(run: Run, args: argparse.Namespace, path: Path, content: dict[str, Any]) -> tuple[Position, Meters, list]:
    """Load a checkpoint into a run that is set up as for a start, and return its position, meters and results.

    Args:
        run: What is to go on.
        args: Its flags; those that differ from the checkpoint's are logged.
        path: Where `content` was read, for messages.
        content: What `read_checkpoint` returned.

    Raises:
        DebiasError: a checkpoint of another model or optimizer, or with weights that are not finite.
    """
    try:
        _restore_model(run, content)
    except DebiasError as error:
        raise DebiasError(f'--resume {path}: {error}') from error
    except (RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
        why = reason(error)[:300]
        raise DebiasError(f'--resume {path}: not a checkpoint of this model ({why})') from error
    if not run.config.model.no_resume_opt:
        _restore_optimizer(run, path, content)
    try:
        return _restore_position(run, args, path, content)
    except (RuntimeError, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        why = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
        raise DebiasError(f'--resume {path}: damaged: it does not say where its run was ({why})') from error


def _restore_position(
    run: Run, args: argparse.Namespace, path: Path, content: dict[str, Any]
) -> tuple[Position, Meters, list]:
    """Go to where a run was; returns what `restore` returns."""
    meters = Meters(run.machine)
    start_epoch = run.config.schedule.start_epoch
    position = Position(start_epoch) if start_epoch is not None else _position(run, content)
    entry = content.get(ENTRY)
    results = list(entry['results']) if entry is not None else []
    if run.machine.is_primary:
        _logger.info(f'Going on from {path}, epoch {position.epoch}, batch {position.batch}.')
        _log_differences(content.get('args'), args)
    if entry is not None and start_epoch is None:
        _restore_process(run, entry, position, meters)
    set_schedule(run, position, entry['scheduler'] if entry is not None else None)
    return position, meters, [result for result in results if result['epoch'] < position.epoch]


def set_schedule(run: Run, position: Position, plateau: dict[str, Any] | None = None) -> None:
    """Move the learning rate to where it is at a position; a plateau schedule to its state in a checkpoint."""
    scheduler = run.scheduler
    if scheduler is None or position == (0, 0):
        return
    if isinstance(scheduler, PlateauLRScheduler) and plateau:
        for name in _PLATEAU_COUNTERS:
            setattr(scheduler.lr_scheduler, name, plateau[name])
        scheduler.restore_lr = plateau['restore_lr']
        return
    # As in the run itself, which does not step before the first epoch.
    if position.epoch:
        scheduler.step(position.epoch)
    updates_of_epoch = -(-position.batch // run.config.model.grad_accum_steps)
    scheduler.step_update(position.epoch * run.updates_per_epoch + updates_of_epoch)


def _plateau_state(run: Run) -> dict[str, Any] | None:
    """Return the state of a plateau schedule; all others are functions of epoch and update."""
    if not isinstance(run.scheduler, PlateauLRScheduler):
        return None
    counters = {name: getattr(run.scheduler.lr_scheduler, name) for name in _PLATEAU_COUNTERS}
    return counters | {'restore_lr': run.scheduler.restore_lr}


def _process_state(run: Run, meters: Meters | None) -> dict[str, Any]:
    """Return what differs between the processes of a run."""
    return {
        **random_states(run.task, run.machine.device),
        'meters': meters.state_dict() if meters is not None else None,
        'buffers': {name: buffer.cpu() for name, buffer in _own_buffers(run)},
        'skipped_in_a_row': run.guard.skipped_in_a_row,
    }


def _restore_process(run: Run, entry: dict[str, Any], position: Position, meters: Meters) -> None:
    processes, machine = entry['processes'], run.machine
    if len(processes) != machine.world_size or entry['batch_size'] != run.config.model.batch_size:
        if machine.is_primary:
            _logger.warning(
                f'The checkpoint is of {len(processes)} processes with batches of {entry["batch_size"]}, and these are '
                f'{machine.world_size} with {run.config.model.batch_size}: the run goes on with other random numbers.'
            )
        seed = derive_seed(run.config.run.seed, position.epoch, position.batch, machine.rank)
        seed_host(seed)
        if machine.device.type != 'cpu':
            torch.get_device_module(machine.device).manual_seed(seed)
        return
    state = processes[machine.rank]
    set_random_states(run.task, state, machine.device)
    run.guard.skipped_in_a_row = state.get('skipped_in_a_row', 0)
    if state['meters'] is not None:
        meters.load_state_dict(state['meters'])
    for name, buffer in _own_buffers(run):
        if name in state['buffers']:
            buffer.copy_(state['buffers'][name])


def _own_buffers(run: Run) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the buffers that differ between processes: statistics of batch norms that are not synchronised.

    Those of the model do not matter where DDP sends them from the first process before each forward and `--dist-bn`
    makes them the same after the last; those of the moving average are never sent.
    """
    norm, device = run.config.norm, run.config.device
    sent = not (device.no_ddp_bb or device.fsdp)
    if not run.machine.distributed or norm.sync_bn:
        return
    if not (sent and norm.dist_bn):
        yield from unwrap_model(run.model).named_buffers(prefix='model')
    if run.task.has_ema():
        yield from unwrap_model(run.task.get_trainable_module(ema=True)).named_buffers(prefix='ema')


def _restore_model(run: Run, content: dict[str, Any]) -> None:
    key = 'state_dict' if 'state_dict' in content else 'model'
    run.task.load_checkpoint_state(clean_state_dict(content[key]), content.get('task_state'))
    check_finite(content[key], 'its weights')
    if not run.task.has_ema():
        return
    if content.get('state_dict_ema') is not None:
        run.task.load_checkpoint_state(content['state_dict_ema'], content.get('task_state_ema'), ema=True)
    else:
        run.task.load_checkpoint_state(clean_state_dict(content[key]), content.get('task_state'), ema=True)


def _restore_optimizer(run: Run, path: Path, content: dict[str, Any]) -> None:
    try:
        if 'optimizer' in content:
            state = content['optimizer']
            run.optimizer.load_state_dict(shared_out(state, run.optimizer) if run.config.device.fsdp else state)
        if run.scaler is not None and run.scaler.state_dict_key in content:
            run.scaler.load_state_dict(content[run.scaler.state_dict_key])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise DebiasError(
            f'--resume {path}: its optimizer is not that of this run ({reason(error)[:200]}); '
            '--no-resume-opt goes on with the weights alone'
        ) from error


def _position(run: Run, content: dict[str, Any]) -> Position:
    """Return where a checkpoint is, in batches of this run."""
    entry = content.get(ENTRY)
    if entry is None:
        epoch = content.get('epoch', -1)
        return Position(epoch + 1 if content.get('version', 1) > 1 or epoch < 0 else epoch)
    images = entry['batch'] * entry['batch_size'] * len(entry['processes'])
    batch = images // (run.config.model.batch_size * run.machine.world_size)
    # Started in the middle of an update, an epoch would end in another number of them.
    if entry['batch'] and batch < len(run.loader):
        batch -= batch % run.config.model.grad_accum_steps
    return Position(entry['epoch'], min(batch, len(run.loader)))


def _log_differences(before: argparse.Namespace | None, now: argparse.Namespace) -> None:
    old = vars(before) if before is not None else {}
    different = [
        f'--{name.replace("_", "-")} {old[name]} → {value}'
        for name, value in sorted(vars(now).items())
        if name in old and old[name] != value and name not in _SAME_RUN
    ]
    if different:
        _logger.warning(f'Flags that differ from the checkpoint: {", ".join(different)}.')
