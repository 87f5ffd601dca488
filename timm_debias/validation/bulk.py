"""Measures many models on benchmarks: each in a folder of its own, all in one table."""

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..errors import DebiasError
from ..machine import Machine
from ..ranks import agree, on_primary
from .bulk_tables import sort_models, write_bulk_tables
from .config import ValidateConfig
from .model import check_model
from .model_lists import Entry, folder_names, list_entries, parse_shard
from .results import has_parts, read_json, read_results, write_json
from .selection import wanted_benchmarks
from .suite import run_suite

_logger = logging.getLogger(__name__)

_FREE = ('models', 'shard', 'resume', 'results_dir', 'workers', 'batch_size', 'log_freq', 'pin_mem', 'device', 'retry')
"""Flags that no result depends on."""


def run_bulk(config: ValidateConfig, machine: Machine) -> list[dict[str, Any]]:
    """Measure the models that `--models` and `--shard` name, and write a table of all after each.

    A model that fails does not end the run.

    Returns:
        For each model, best first: what `run_suite` returns, or its `error`; with `folder`, and `checkpoint` if any.

    Raises:
        DebiasError: a mistake in `--models` or `--shard`, results without `--resume`, or a disk that is full.
    """
    suite = config.suite
    wanted = wanted_benchmarks(suite)
    classes = {benchmark.num_classes for benchmark in wanted if benchmark.num_classes is not None}
    entries = agree(machine, lambda: list_entries(suite.models, config.model.model, classes))
    names = folder_names(entries)
    first, step = parse_shard(suite.shard or '1/1')
    entries = entries[first - 1 :: step]
    root = Path(suite.results_dir)
    stem = f'results-{first}-of-{step}' if step > 1 else 'results'
    on_primary(machine, lambda: _check_folders(config, [root / names[entry] for entry in entries]))
    models: list[dict[str, Any]] = []
    for number, entry in enumerate(entries, start=1):
        _logger.info(f'Model {number} of {len(entries)}: {names[entry]}')
        results = _measure_entry(config, entry, root / names[entry], machine)
        checkpoint = {'checkpoint': entry.checkpoint} if entry.checkpoint else {}
        models.append(results | {'folder': names[entry]} | checkpoint)
        on_primary(machine, lambda: write_bulk_tables(root, stem, sort_models(models)))
    return [dict(model) for model in sort_models(models)]


def _check_folders(config: ValidateConfig, folders: list[Path]) -> None:
    held = [folder for folder in folders if has_parts(folder)]
    if held and not config.suite.resume:
        raise DebiasError(
            f'{held[0]} holds results already; give --resume to go on with them, or another --results-dir'
        )


def _measure_entry(config: ValidateConfig, entry: Entry, folder: Path, machine: Machine) -> dict[str, Any]:
    """Return the results of a model, stored ones where it is finished, or its error."""
    config = replace(
        config,
        model=replace(config.model, model=entry.model, checkpoint=entry.checkpoint),
        run=replace(config.run, retry=True),
        suite=replace(config.suite, results_dir=str(folder)),
    )
    try:
        agree(machine, lambda: check_model(config.model))
        request = on_primary(machine, lambda: _request(config))
        results = on_primary(machine, lambda: _finished(folder, request)) if config.suite.resume else None
        if results is None:
            results = run_suite(config, machine)
            on_primary(machine, lambda: write_json(folder / 'request.json', request))
    except DebiasError as error:
        reason = str(error)
        _logger.warning(f'{folder.name} failed: {reason}')
    except Exception as error:  # Model code raises almost anything, and the next model may be well.
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:500]
        _logger.warning(f'{folder.name} failed: {reason}', exc_info=True)
    else:
        return results
    return {'model': entry.model, 'error': reason}


def _request(config: ValidateConfig) -> dict[str, Any]:
    """Return what was asked for, as JSON values: a model that was measured by the same request is finished."""
    flags = {**asdict(config.model), **asdict(config.run), **asdict(config.suite)}
    request = {name: value for name, value in flags.items() if name not in _FREE}
    if config.model.checkpoint:
        status = Path(config.model.checkpoint).stat()
        request['checkpoint_state'] = [status.st_size, status.st_mtime_ns]
    return json.loads(json.dumps(request, default=str))


def _finished(folder: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the results of a model that was measured by the same request, None where it was not."""
    path = folder / 'request.json'
    if not path.exists() or read_json(path) != request:
        return None
    _logger.info(f'{folder.name} was measured before.')
    return read_results(folder)
