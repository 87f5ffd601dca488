"""Measures many models on one data set, where `--model` or `--checkpoint` names many."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..errors import DebiasError
from .config import ValidateConfig, ValidateModelConfig
from .model import check_model
from .model_lists import Entry, list_entries

_logger = logging.getLogger(__name__)


def names_many(options: ValidateModelConfig) -> bool:
    """Return whether `--model` is `all`, a wildcard or a file of names, or `--checkpoint` a folder."""
    model = options.model
    return os.path.isdir(options.checkpoint) or model == 'all' or '*' in model or os.path.isfile(model)


def validate_many(
    config: ValidateConfig, validate: Callable[[ValidateConfig], dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure each model with `validate`, by smaller batches where memory runs out, as `--retry` does.

    Returns:
        The rows of results, best top-1 first, and the models that failed.

    Raises:
        DebiasError: no model is found.
    """
    entries = _entries(config.model)
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for number, entry in enumerate(entries, start=1):
        name = entry.checkpoint or entry.model
        _logger.info(f'Model {number} of {len(entries)}: {name}')
        model = replace(config.model, model=entry.model, checkpoint=entry.checkpoint)
        try:
            check_model(model)
            row = validate(replace(config, model=model, run=replace(config.run, retry=True)))
        except DebiasError as error:
            _logger.warning(f'{name} failed: {error}')
            failed.append(name)
        except Exception:  # Model code raises almost anything, and the next model may be well.
            _logger.warning(f'{name} failed.', exc_info=True)
            failed.append(name)
        else:
            rows.append(row | ({'checkpoint': entry.checkpoint} if entry.checkpoint else {}))
    return sorted(rows, key=lambda row: row.get('top1', 0), reverse=True), failed


def _entries(options: ValidateModelConfig) -> Sequence[Entry]:
    if os.path.isdir(options.checkpoint):
        return list_entries(options.checkpoint, options.model, (), '--checkpoint')
    if options.checkpoint:
        raise DebiasError(f'--checkpoint {options.checkpoint} is for one model, and --model {options.model} names many')
    return list_entries(options.model, '', {options.num_classes or 1000}, '--model')
