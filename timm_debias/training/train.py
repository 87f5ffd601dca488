"""A whole training run, from configuration to `--result`."""

import argparse
import json
import logging
import math
from collections import OrderedDict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models import safe_model_name
from timm.task.task import TrainingTask
from timm.utils import random_seed

from ..data.factory import SHAPES_TEXTURES, create_dataset
from ..errors import DebiasError, told_as
from ..evaluate import evaluate, evaluate_conflict
from ..files import remove_leftovers, write_text
from ..machine import Machine
from ..ranks import agree, on_primary
from .batches import mean_batch_size
from .checkpoint import newest_intact, read_checkpoint, unwritable
from .config import TrainConfig
from .data import build_datasets, build_eval_loader, build_train_loader, check_labels, register_augmentations
from .epochs import Epochs, Metrics, eval_metric
from .eval_loader import EvalLoader
from .fsdp import shard
from .input_size import check_input_size
from .loop import Run
from .meters import Meters
from .model import build_model, build_task, resolve_input
from .optim import build_optimizer, build_scheduler, last_epoch, resolve_lr
from .precision import autocast_of, scaler_of
from .preview import save_preview
from .saver import Saver, rank
from .state import Position, restore, set_schedule
from .trackers import Trackers
from .update_file import save_update

_logger = logging.getLogger(__name__)


def train(config: TrainConfig, args: argparse.Namespace, args_text: str, machine: Machine) -> None:
    """Train a model; the run's folder gets what timm's train.py writes, and metrics.jsonl.

    Args:
        config: What to train.
        args: The flags that `config` came from, for the checkpoints.
        args_text: The same as YAML, for args.yaml.
        machine: Where this process runs.

    Raises:
        Stopped: a signal has come; the run is saved.
        DebiasError: a mistake that only data, model or checkpoint show, or a file that cannot be written.
    """
    random_seed(config.run.seed, machine.rank)
    model = build_model(config, machine)
    input_config = resolve_input(config, model, verbose=machine.is_primary)
    channels, *own = input_config['input_size']
    for size in {tuple(own), *((side, side) for side in config.sizes.train_img_sizes or ())}:
        check_input_size(model, (channels, *size), machine)
    num_classes = config.model.num_classes or model.num_classes
    train_set, val_set = build_datasets(config, input_config, num_classes)
    check_labels(config, train_set, num_classes, machine)
    register_augmentations(config, train_set, input_config)
    loader, mixup_fn = build_train_loader(config, train_set, model, input_config, num_classes, machine)
    eval_loaders = _eval_loaders(config, val_set, model, input_config, num_classes, machine)
    batch_size = mean_batch_size(config, loader)
    config = resolve_lr(config, batch_size, machine)

    task = build_task(config, model, input_config, num_classes, machine)
    _setup_ema(config, task)
    if config.device.fsdp:
        shard(task, machine)
    optimizer = build_optimizer(config, task.get_trainable_module() or model)
    run_dir = on_primary(machine, lambda: _run_dir(config, input_config))
    checkpoint = _checkpoint(config, run_dir, machine)
    _prepare(config, task, machine)

    autocast = partial(autocast_of, config, machine)
    scaler = scaler_of(config, machine)
    run = Run(config, machine, task, loader, optimizer, scaler=scaler, autocast=autocast, mixup_fn=mixup_fn)
    run.mean_batch_size = batch_size
    run.scheduler, num_epochs = build_scheduler(config, optimizer, run.updates_per_epoch)
    run.num_epochs = last_epoch(config, num_epochs)
    for eval_loader in eval_loaders.values():
        eval_loader.through = run.stop.through
    position, meters, results = _start(run, args, checkpoint)
    savers: list[Saver] = []
    on_primary(machine, lambda: savers.append(_saver(config, run_dir, checkpoint, args_text)))
    run.guard.save = partial(save_update, run, args, run_dir)
    on_primary(machine, lambda: _start_trackers(run, args, run_dir, position))
    if machine.is_primary and config.run.save_images:
        run.on_log = partial(save_preview, task, run_dir)
    validate = partial(_validate, run, eval_loaders) if eval_loaders else None
    Epochs(run, args, validate, savers[0] if savers else None, results).run_from(position, meters)
    if machine.is_primary:
        _report(run, results, run_dir)


def _checkpoint(config: TrainConfig, run_dir: Path, machine: Machine) -> tuple[Path, dict[str, Any]] | None:
    """Return path and content of the checkpoint to go on from, the same in all processes; None for a new run."""
    resume = config.model.resume
    if not resume:
        return None
    found: list[tuple[Path, dict[str, Any]] | None] = [None]

    def find() -> Path | None:
        found[0] = newest_intact(run_dir)
        return found[0][0] if found[0] is not None else None

    path = on_primary(machine, find) if resume == 'auto' else Path(resume)
    if path is None:
        return None
    return agree(machine, lambda: found[0] or (path, _read(path)))


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_checkpoint(path)
    except DebiasError as error:
        raise DebiasError(f'--resume {path}: {error}') from error


def _start(
    run: Run, args: argparse.Namespace, checkpoint: tuple[Path, dict[str, Any]] | None
) -> tuple[Position, Meters, list[dict[str, Any]]]:
    """Return where to start, the means over that epoch so far, and what came out of the epochs before."""
    if checkpoint is not None:
        return agree(run.machine, lambda: restore(run, args, *checkpoint))
    position = Position(run.config.schedule.start_epoch or 0)
    set_schedule(run, position)
    return position, Meters(run.machine), []


def _eval_loaders(
    config: TrainConfig, val_set: Any, model: Any, input_config: dict[str, Any], num_classes: int, machine: Machine
) -> dict[str, EvalLoader]:
    """Return the loaders of `validation` and, for `shapes_textures`, of its `conflict` images."""
    if val_set is None:
        return {}
    loaders = {'validation': build_eval_loader(config, val_set, model, input_config, num_classes, machine)}
    if config.data.dataset == SHAPES_TEXTURES:
        conflict = create_dataset(SHAPES_TEXTURES, None, 'conflict', input_config['input_size'][-1])
        loaders['conflict'] = build_eval_loader(config, conflict, model, input_config, num_classes, machine)
    return loaders


def _validate(run: Run, loaders: dict[str, EvalLoader]) -> Metrics:
    """Validate the model and its moving average; where there is one, return the metrics of the latter."""
    metrics: Metrics = OrderedDict()
    models: dict[str, Any] = {'Test': run.task.get_eval_model()}
    if run.task.has_ema() and not run.config.ema.model_ema_force_cpu:
        models['Test (EMA)'] = run.task.get_eval_model(ema=True)
    for name, model in models.items():
        metrics = _validate_model(run, loaders, model, name)
    return metrics


def _validate_model(run: Run, loaders: dict[str, EvalLoader], model: Any, name: str) -> Metrics:
    options: dict[str, Any] = dict(
        autocast=run.autocast(),
        channels_last=run.config.model.channels_last,
        distributed=run.machine.distributed,
    )
    device = run.machine.device
    log_interval = run.config.run.log_interval if run.machine.is_primary else 0
    loader = loaders['validation']
    evaluator = run.task.create_evaluator(max_samples=loader.limit)
    with loader.counted_by(evaluator):
        metrics: Metrics = evaluate(
            model, loader, device, evaluator=evaluator, log_interval=log_interval, name=name, **options
        )
    run.bad_in_validation = [bad.row() for bad in loader.bad]
    if 'conflict' in loaders:
        metrics.update(evaluate_conflict(model, loaders['conflict'], device, **options))
    return metrics


def _setup_ema(config: TrainConfig, task: TrainingTask) -> None:
    if config.ema.model_ema:
        device = torch.device('cpu') if config.ema.model_ema_force_cpu else None
        task.setup_ema(config.ema.model_ema_decay, config.ema.model_ema_warmup, device)


def _prepare(config: TrainConfig, task: TrainingTask, machine: Machine) -> None:
    """Compile and wrap for several processes, in the order timm needs."""
    if config.model.torchcompile:
        with told_as('--torchcompile, --torchcompile-mode', RuntimeError):
            task.compile(backend=config.model.torchcompile, mode=config.model.torchcompile_mode)
            task.compile_ema(backend=config.model.torchcompile, mode=config.model.torchcompile_mode)
    if machine.distributed and not config.device.fsdp:
        # Validation goes past DDP, whose forward talks to other processes.
        task.eval_model = task.get_eval_model()  # type: ignore[assignment]
        device_ids = None if machine.device.type == 'cpu' else [machine.device]
        task.prepare_distributed(device_ids=device_ids, broadcast_buffers=not config.device.no_ddp_bb)


def _run_dir(config: TrainConfig, input_config: dict[str, Any]) -> Path:
    name = config.run.experiment or '-'.join(
        [
            datetime.now().strftime('%Y%m%d-%H%M%S'),
            safe_model_name(config.model.model),
            str(input_config['input_size'][-1]),
        ]
    )
    run_dir = Path(config.run.output or './output/train') / name
    resume = config.model.resume
    goes_on = resume == 'auto' or (resume != '' and _lies_in(run_dir, Path(resume)))
    if not goes_on and any(run_dir.glob('*.pth.tar')):
        raise DebiasError(f'{run_dir} holds a run already: choose another --experiment, or go on with --resume auto')
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(run_dir)
    except OSError as error:
        raise DebiasError(f'{run_dir}: {error.strerror or error}') from error
    return run_dir


def _lies_in(folder: Path, path: Path) -> bool:
    return path.parent.resolve() == folder.resolve()


def _saver(config: TrainConfig, run_dir: Path, checkpoint: tuple[Path, dict[str, Any]] | None, args_text: str) -> Saver:
    """Write args.yaml and return what writes the checkpoints, with the folder's history where the run goes on in it."""
    try:
        write_text(run_dir / 'args.yaml', args_text)
    except OSError as error:
        raise unwritable(run_dir / 'args.yaml', error) from error
    saver = Saver(run_dir, eval_metric(config) == 'loss', config.run.checkpoint_hist)
    if checkpoint is not None and _lies_in(run_dir, checkpoint[0]):
        saver.restore(run_dir / checkpoint[0].name, checkpoint[1])
    return saver


def _start_trackers(run: Run, args: argparse.Namespace, run_dir: Path, position: Position) -> None:
    update = -(-position.batch // run.config.model.grad_accum_steps)
    run.trackers = Trackers(run.config, args, run_dir, (position.epoch, update), run.updates_per_epoch)


def _report(run: Run, results: list[dict], run_dir: Path) -> None:
    """Say what came out and where it is; timm's `--result` JSON comes last, where bulk tools look for it."""
    if results:
        last = results[-1].get('validation', results[-1]['train'])
        if 'top1' in last:
            _logger.info(f'After epoch {results[-1]["epoch"]}: validation accuracy {last["top1"]:.2f} %.')
        if 'shape_bias' in last:
            bias = 'undefined' if last['shape_bias'] is None else f'{last["shape_bias"]:.2f} %'
            _logger.info(
                f'Conflict images decided by shape: {last["conflict_shape"]:.2f} %, by texture: '
                f'{last["conflict_texture"]:.2f} %; shape bias {bias}.'
            )
    pictures = sorted(run_dir.glob('shape-texture-*.png'))
    if pictures:
        _logger.info(f'Picture of contents, partners and stylised images, one of {len(pictures)}: {pictures[0]}')
    _logger.info(f'Checkpoints, summary.csv, metrics.jsonl and args.yaml: {run_dir}')
    metric = eval_metric(run.config)
    ranked = sorted(
        results,
        key=lambda result: rank(result.get('validation', result['train'])[metric], metric == 'loss'),
        reverse=True,
    )
    print(f'--result\n{json.dumps(_finite(ranked[-10:]), indent=4)}', flush=True)


def _finite(value: Any) -> Any:
    """Return a value with null in place of numbers that are not finite, for which JSON has no word."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
