"""Measures a model on benchmarks: one command, one pool of data workers, resumable part by part."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from timm.utils import random_seed
from torch import nn

from ..errors import DebiasError
from ..hashing import hash_weights
from ..machine import Machine
from ..ranks import agree, gather, on_primary
from .benchmarks import Benchmark, Contents, Setting, Summary
from .config import ValidateConfig
from .loading import Transform, preprocessing
from .measure import Task, measure
from .model import build_model, class_names, prepare_model, resolve_input
from .results import PartResults
from .selection import select
from .tables import write_tables

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """A benchmark of this run, its data checked."""

    benchmark: Benchmark
    contents: Contents
    transform: Transform
    protocol: str


@dataclass(frozen=True)
class Prepared:
    """A model that is loaded, and the benchmarks to measure it on."""

    model: nn.Module
    input_config: dict[str, Any]
    header: dict[str, Any]
    measured: list[Measured]
    absent: dict[str, str]


def run_suite(config: ValidateConfig, machine: Machine) -> dict[str, Any]:
    """Measure the benchmarks that `--benchmarks` names, and write the results.

    Args:
        config: The flags.
        machine: The processes of the run: they share the images, and the first writes files.

    Returns:
        Everything: timm's columns and the headline figures first, then each benchmark.

    Raises:
        DebiasError: a mistake in flags, data or weights, before anything is measured; an image that cannot be read;
            logits that are not finite; results that cannot be written.
    """
    prepared = agree(machine, lambda: _prepare(config))
    _check_processes(prepared, machine)
    settings = _settings(config, prepared.input_config)
    folder = Path(config.suite.results_dir) if config.suite.results_dir and machine.is_primary else None
    stored = agree(machine, lambda: PartResults(folder, prepared.header | settings, config.suite.resume))
    states = _measure_parts(config, prepared, stored, machine)
    results = _collect(prepared.header, settings, prepared.measured, prepared.absent, states)
    if others := stored.others(states):
        names = ', '.join(dict.fromkeys(name.partition('/')[0] for name in others))
        _logger.warning(
            f'{folder} also holds {len(others)} parts that were not asked for now ({names}): results.json, .csv and '
            '.md are without them until they are asked for again.'
        )
    if config.suite.results_dir:
        on_primary(machine, lambda: write_tables(Path(config.suite.results_dir), results))
    return results


def _prepare(config: ValidateConfig) -> Prepared:
    """Load the model, and check the data of all benchmarks."""
    random_seed(config.run.seed)
    model: Any = build_model(config)
    input_config = resolve_input(config, model)
    names = class_names(config, model)
    selected, absent = select(config.suite, model.num_classes, names)
    for name, reason in absent.items():
        _logger.info(f'{name}: left out, {reason}.')
    setting = Setting(config.suite, input_config['input_size'][-1], config.run.seed, model.num_classes, names)
    measured = [_check_data(config, benchmark, roots, setting, input_config) for benchmark, roots in selected.items()]
    header = describe_model(config, model, input_config)
    return Prepared(prepare_model(config, model), input_config, header, measured, absent)


def _check_processes(prepared: Prepared, machine: Machine) -> None:
    """Raise `DebiasError` where the processes, perhaps on several computers, have not the same before them."""
    weights = prepared.header['weights']
    images = {part.name: part.images.fingerprint for item in prepared.measured for part in item.contents.parts}
    for process in gather(machine, lambda: {'weights': weights, 'images': images}):
        for what, own in (('weights', weights), ('images', images)):
            if process[what] != own:
                raise DebiasError(f'the processes of this run have different {what}; give all of them the same files')


def _check_data(
    config: ValidateConfig,
    benchmark: Benchmark,
    roots: dict[str, Path],
    setting: Setting,
    input_config: dict[str, Any],
) -> Measured:
    """Check the data of a benchmark and say how it will be measured."""
    contents = benchmark.contents(roots, setting)
    if any(part.attack for part in contents.parts) and config.run.model_dtype not in (None, 'float32'):
        raise DebiasError(f'{benchmark.name}: attacks compute in float32; leave --model-dtype out')
    transform, words = preprocessing(benchmark, input_config, config.model.crop_border_pixels, contents.image_size)
    protocol = '; '.join([words, benchmark.protocol(setting), *contents.notes])
    _logger.info(f'{benchmark.name}: {sum(len(part.images) for part in contents.parts):,} images. {protocol}.')
    return Measured(benchmark, contents, transform, protocol)


def describe_model(config: ValidateConfig, model: nn.Module, input_config: dict[str, Any]) -> dict[str, Any]:
    """Return what the model is: name, hash of the weights, parameters in millions, input."""
    return {
        'model': config.model.model,
        'weights': hash_weights(model),
        'param_count': round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2),
        'img_size': input_config['input_size'][-1],
        'crop_pct': input_config['crop_pct'],
        'interpolation': input_config['interpolation'],
    }


def _settings(config: ValidateConfig, input_config: dict[str, Any]) -> dict[str, Any]:
    """Return what the results depend on besides weights, data and protocol."""
    run, model = config.run, config.model
    return {
        'model_kwargs': {name: str(value) for name, value in model.model_kwargs.items()},
        'gp': model.gp,
        'reparam': model.reparam,
        'fast_norm': model.fast_norm,
        'mean': list(input_config['mean']),
        'std': list(input_config['std']),
        'amp': run.amp_dtype if run.amp else None,
        'model_dtype': run.model_dtype,
        'channels_last': run.channels_last,
        'torchcompile': model.torchcompile,
        'on_error': config.suite.on_error,
    }


def _measure_parts(
    config: ValidateConfig, prepared: Prepared, stored: PartResults, machine: Machine
) -> dict[str, dict[str, Any]]:
    """Return the result of each part: stored ones, and the others measured now and stored one by one."""
    identities: dict[str, dict[str, Any]] = {}
    tasks: list[Task] = []
    for item in prepared.measured:
        for part in item.contents.parts:
            identities[part.name] = {
                'images': len(part.images),
                'fingerprint': part.images.fingerprint,
                'targets': hashlib.sha256(part.targets.numpy().tobytes()).hexdigest(),
                'protocol': item.protocol,
            }
            tasks.append(Task(part, item.transform))
    loaded = on_primary(machine, lambda: {name: stored.load(name, identity) for name, identity in identities.items()})
    results = {name: result for name, result in loaded.items() if result is not None}
    if results:
        _logger.info(f'{len(results)} of {len(identities)} parts were measured before.')
    tasks = [task for task in tasks if task.part.name not in results]
    for name, result in measure(config, prepared.model, prepared.input_config, tasks, machine):
        results[name] = on_primary(machine, partial(stored.save, name, identities[name], result))
    return results


def _collect(
    header: dict[str, Any],
    settings: dict[str, Any],
    measured: Sequence[Measured],
    absent: dict[str, str],
    results: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Return everything: timm's columns, headline figures, then the benchmarks."""
    complete = [item.benchmark.name for item in measured if not item.contents.partial]
    summaries: dict[str, Summary] = {}
    benchmarks: dict[str, Any] = {}
    headline: dict[str, float | None] = {}
    for item in measured:
        name, parts = item.benchmark.name, item.contents.parts
        states = {part.name: results[part.name]['state'] for part in parts}
        # A figure of a complete benchmark must not rest on another that is not, nor one of a subset on all images.
        others = {
            key: value
            for key, value in summaries.items()
            if not item.contents.subset and (key in complete or item.contents.partial)
        }
        summaries[name] = item.benchmark.summarize(states, others)
        benchmarks[name] = _entry(item, summaries[name], [results[part.name] for part in parts])
        subset = item.contents.subset
        mark = (f'_{subset.column}' if subset else '') + ('_partial' if item.contents.partial else '')
        headline |= {f'{name}_{key}{mark}': value for key, value in summaries[name].headline.items()}
    row: dict[str, Any] = {'model': header['model']}
    for key in ('top1', 'top5'):
        value = summaries['imagenet'].metrics[key] if 'imagenet' in complete else None
        row[key], row[f'{key}_err'] = (None, None) if value is None else (round(value, 4), round(100 - value, 4))
    row |= {key: header[key] for key in ('param_count', 'img_size', 'crop_pct', 'interpolation')}
    row |= {key: None if value is None else round(value, 4) for key, value in headline.items()}
    return {**row, 'weights': header['weights'], 'settings': settings, 'absent': absent, 'benchmarks': benchmarks}


def _entry(item: Measured, summary: Summary, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    prints = sorted({part.images.fingerprint for part in item.contents.parts})
    skipped = [name for result in results for name in result['skipped']]
    return {
        'protocol': item.protocol,
        'partial': item.contents.partial,
        'subset': item.contents.subset.words if item.contents.subset else None,
        'images': sum(result['images'] for result in results),
        'skipped': skipped,
        'batch_sizes': sorted({result['batch_size'] for result in results}),
        'fingerprint': prints[0] if len(prints) == 1 else hashlib.sha256('\n'.join(prints).encode()).hexdigest(),
        'headline': summary.headline,
        'metrics': summary.metrics,
        'notes': summary.notes,
    }
