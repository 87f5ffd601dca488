"""The command `validate.py`, also `timm-debias validate`."""

import argparse
import csv
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, get_type_hints

import torch
from timm.data import create_loader, create_naflex_loader
from timm.utils import random_seed

from ..checks import DATA_FLAGS, check_device
from ..data.checks import check_image_folder, class_names
from ..data.factory import SHAPES_TEXTURES, create_dataset
from ..errors import DebiasError
from ..escaping import csv_cell
from ..evaluate import evaluate, evaluate_conflict
from ..files import atomic_path
from ..flags import Parser, add_config_flag, add_flags, config_from, parse_with_yaml
from ..log import setup_logging
from ..machine import Machine, init_machine
from ..out_of_memory import BatchTooLargeError, halve, is_out_of_memory
from ..ranks import agree
from ..training.eval_loader import EvalLoader
from ..training.naflex import naflex_patch_size
from .benchmarks import format_benchmarks
from .bulk import run_bulk
from .bulk_tables import format_models
from .checks import check_config
from .config import ValidateConfig
from .labels import AveragedMetrics, RealLabels, read_valid_labels
from .many import names_many, validate_many
from .model import autocast, build_model, check_input_size, pool_at_test, prepare_model, resolve_input
from .suite import run_suite
from .tables import format_headline, format_results

_logger = logging.getLogger(__name__)

Results = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure a model as the flags say; returns the exit code.

    Raises:
        DebiasError: a mistake in the flags, the data or the checkpoint.
    """
    setup_logging()
    parser = build_parser()
    config = config_from_args(parse_with_yaml(parser, argv, same=DATA_FLAGS))
    if config.suite.list_benchmarks:
        print(format_benchmarks(), end='')
        return 0
    check_device(config.run.device)
    machine = init_machine(config.run.device)
    if not machine.is_primary:
        logging.getLogger().setLevel(logging.ERROR)
    try:
        return _run(replace(config, run=replace(config.run, device=str(machine.device))), machine)
    except DebiasError:
        if machine.is_primary:
            raise
        time.sleep(2)  # torchrun ends all processes when one has: time for the first to say why.
        return 2
    finally:
        if machine.distributed:
            torch.distributed.destroy_process_group()


def _run(config: ValidateConfig, machine: Machine) -> int:
    """Measure, and print the results on the first process; returns the exit code."""
    agree(machine, lambda: check_config(config))
    results: Any
    failed: list[str] = []
    total = 0
    summary = ''
    if config.suite.models:
        results = run_bulk(config, machine)
        total = len(results)
        failed = [model['folder'] for model in results if 'error' in model]
        summary = format_models(results)
    elif config.suite.benchmarks:
        results = run_suite(config, machine)
        summary = format_headline(results)
        if not config.suite.results_dir:
            _logger.info(format_results(results))
    else:
        if machine.distributed:
            raise DebiasError('a data set of your own is measured by one process: start without torchrun')
        if names_many(config.model):
            results, failed = validate_many(config, _validate)
            total = len(results) + len(failed)
        else:
            results = _validate(config)
        for row in results if isinstance(results, list) else [results]:
            log_results(row)
    if machine.is_primary and config.suite.results_dir:
        print(f'{summary}\nResults: {config.suite.results_dir}', flush=True)
    elif machine.is_primary:
        print(f'--result\n{json.dumps(results, indent=4)}', flush=True)
    if config.run.results_file:  # After the printing: a disk may be full, and the results took hours.
        write_results(config.run.results_file, results, config.run.results_format)
    if failed:
        _logger.warning(f'{len(failed)} of {total} models failed: {", ".join(failed)}')
    return 1 if failed else 0


def _validate(config: ValidateConfig) -> Results:
    """Return what `validate` does, with `--retry` by smaller batches where memory runs out."""
    while True:
        batch_size = config.run.batch_size
        try:
            return validate(config)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        shortage = BatchTooLargeError(config.model.model, batch_size)
        if not config.run.retry:
            raise shortage
        config = replace(config, run=replace(config.run, batch_size=halve(batch_size, shortage)))


def build_parser() -> Parser:
    """Return the parser of all flags."""
    parser = Parser(
        prog='validate.py',
        description='Measure the accuracy of a timm model on a data set, or with --benchmarks its robustness.',
        epilog=f'--dataset {SHAPES_TEXTURES} is embedded and needs no --data-dir.',
    )
    add_config_flag(parser)
    for config in get_type_hints(ValidateConfig).values():
        add_flags(parser, config)
    return parser


def config_from_args(args: argparse.Namespace) -> ValidateConfig:
    """Sort the parsed flags into the configuration of each concern."""
    hints = get_type_hints(ValidateConfig)
    return ValidateConfig(**{field.name: config_from(hints[field.name], args) for field in fields(ValidateConfig)})


def validate(config: ValidateConfig) -> Results:
    """Return a row of results: timm's columns, and on `shapes_textures` the decisions on conflict images."""
    run, device = config.run, torch.device(config.run.device)
    random_seed(run.seed)
    model: Any = build_model(config)
    param_count = sum(parameter.numel() for parameter in model.parameters())
    input_config = resolve_input(config, model)
    columns = read_valid_labels(config.data.valid_labels, model.num_classes)
    num_classes = model.num_classes if columns is None else len(columns)
    patch_size = naflex_patch_size(model) if config.data.naflex_loader else None
    model, input_config = pool_at_test(config, model, input_config)
    if patch_size is None:
        check_input_size(config, model.to(device), input_config['input_size'], Machine(device))
    datasets = {split: _dataset(config, input_config, split, num_classes) for split in _splits(config)}
    loaders = {split: _loader(config, data, input_config, patch_size, num_classes) for split, data in datasets.items()}
    model = prepare_model(config, model)
    context = autocast(config)
    metrics: dict[str, Any] = {}
    for split, loader in loaders.items():
        if is_conflict(config, split):
            metrics.update(evaluate_conflict(model, loader, device, context, run.channels_last))
        else:
            observers = _observers(config, loader)
            metrics.update(
                evaluate(
                    model,
                    loader,
                    device,
                    context,
                    run.channels_last,
                    log_interval=run.log_freq,
                    columns=columns,
                    observers=observers,
                )
            )
            for observer in observers:
                metrics.update(observer.metrics())
    return _row(config, metrics, input_config, param_count)


def _observers(config: ValidateConfig, loader: Any) -> list[Any]:
    """Return what measures more than top-1 and top-5, or these by other labels."""
    observers: list[Any] = []
    if config.data.real_labels:
        observers.append(RealLabels(config.data.real_labels, loader.dataset.filenames(basename=True)))
    if config.run.metrics_avg:
        observers.append(AveragedMetrics(config.run.metrics_avg))
    return observers


def is_conflict(config: ValidateConfig, split: str) -> bool:
    """Return whether the images of a split carry two labels."""
    return config.data.dataset == SHAPES_TEXTURES and split == 'conflict'


def _splits(config: ValidateConfig) -> list[str]:
    """Return the splits to measure: for `shapes_textures`, conflict images go with the validation images."""
    split = config.data.split
    return [split, 'conflict'] if config.data.dataset == SHAPES_TEXTURES and split == 'validation' else [split]


def _dataset(config: ValidateConfig, input_config: dict[str, Any], split: str, num_classes: int) -> Any:
    """Return a split, checked."""
    data, run = config.data, config.run
    dataset: Any = create_dataset(
        data.dataset,
        data.data_dir or data.data,
        split,
        input_config['input_size'][-1],
        num_samples=data.num_samples,
        download=data.dataset_download,
        class_map=data.class_map,
        input_key=data.input_key,
        input_img_mode=data.input_img_mode or ('RGB' if input_config['input_size'][0] == 3 else 'L'),
        target_key=data.target_key,
        trust_remote_code=data.dataset_trust_remote_code,
        seed=run.seed,
        load_bytes=data.tf_preprocessing,
    )
    check_image_folder(dataset)
    if config.model.aot_autograd and len(dataset) % run.batch_size:
        raise DebiasError(
            f'--aot-autograd compiles for batches of one size, and the {len(dataset):,} images are no multiple of '
            f'-b {run.batch_size}; give another -b, or --torchcompile'
        )
    names = class_names(dataset)
    if names is not None and len(names) > num_classes:
        raise DebiasError(f'the data has {len(names)} classes and the model {num_classes}: see --num-classes')
    if names is not None and len(names) < num_classes and not data.class_map:
        _logger.warning(
            f'The data has {len(names)} classes and the model {num_classes}: they are taken for the first of the model '
            'in the order of their names. If they are others, every figure is wrong: give --class-map, or for a part '
            'of the classes of ImageNet see --list-benchmarks.'
        )
    return dataset


def _loader(
    config: ValidateConfig,
    dataset: Any,
    input_config: dict[str, Any],
    patch_size: tuple[int, int] | None,
    num_classes: int,
) -> EvalLoader:
    data, run = config.data, config.run
    options: dict[str, Any] = dict(
        batch_size=run.batch_size,
        use_prefetcher=not run.no_prefetcher,
        interpolation=input_config['interpolation'],
        mean=input_config['mean'],
        std=input_config['std'],
        num_workers=run.workers,
        crop_pct=input_config['crop_pct'],
        crop_mode=input_config['crop_mode'],
        crop_border_pixels=config.model.crop_border_pixels,
        pin_memory=run.pin_mem,
        device=torch.device(run.device),
        img_dtype=getattr(torch, run.model_dtype) if run.model_dtype else torch.float32,
    )
    input_size = input_config['input_size']
    build: Callable[[Any], Any]
    if patch_size is not None:
        options.update(patch_size=patch_size, max_seq_len=data.naflex_max_seq_len, channels=input_size[0])
        build = partial(create_naflex_loader, **options)
    else:
        build = partial(create_loader, input_size=input_size, tf_preprocessing=data.tf_preprocessing, **options)
    return EvalLoader(build, dataset, run.workers, num_classes=num_classes, advice='mend or remove it')


def _row(config: ValidateConfig, metrics: dict[str, Any], input_config: dict[str, Any], param_count: int) -> Results:
    row: Results = OrderedDict(model=config.model.model)
    for name in ('top1', 'top5'):
        if name in metrics:
            row[name] = round(metrics[name], 4)
            row[f'{name}_err'] = round(100 - metrics[name], 4)
    average = config.run.metrics_avg
    row.update({name: round(value, 4) for name, value in metrics.items() if average and name.startswith(average)})
    row['param_count'] = round(param_count / 1e6, 2)
    row['img_size'] = input_config['input_size'][-1]
    row['crop_pct'] = input_config['crop_pct']
    row['interpolation'] = input_config['interpolation']
    for name in ('conflict_shape', 'conflict_texture', 'shape_bias'):
        if name in metrics:
            row[name] = None if metrics[name] is None else round(metrics[name], 4)
    return row


def log_results(results: Results) -> None:
    """Write a row of results to the log, in words."""
    averaged = {name: value for name, value in results.items() if name.endswith(('precision', 'recall', 'f1_score'))}
    if 'top1' in results:
        _logger.info(' * Acc@1 {top1:.3f} ({top1_err:.3f}) Acc@5 {top5:.3f} ({top5_err:.3f})'.format(**results))
    if averaged:
        _logger.info(' * ' + ' '.join(f'{name} {value:.3f}' for name, value in averaged.items()))
    if 'shape_bias' in results:
        bias = 'undefined' if results['shape_bias'] is None else f'{results["shape_bias"]:.2f} %'
        _logger.info(
            f' * conflict images decided by shape {results["conflict_shape"]:.2f} %, by texture '
            f'{results["conflict_texture"]:.2f} %; shape bias {bias}'
        )


def write_results(path: str, results: Results | list[Results], format: str) -> None:
    """Write a row of results, or several, to `path`, as CSV with timm's columns first or as JSON, atomically.

    Raises:
        DebiasError: it cannot be written; a file that was there is as it was.
    """
    try:
        with atomic_path(path) as temporary, open(temporary, 'w', newline='', encoding='utf-8') as file:
            if format == 'json':
                json.dump(results, file, indent=4)
            else:
                rows = results if isinstance(results, list) else [results]
                writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
                writer.writeheader()
                writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    except OSError as error:
        raise DebiasError(f'--results-file {path} cannot be written: {error.strerror or error}') from error
