"""The command `timm-debias benchmark`."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from ..files import check_output, write_text
from ..flags import Parser, add_flags, config_from
from ..log import setup_logging
from ..stylizers.registry import create_stylizers, describe_stylizers
from ..training.heap import keep_freed_memory
from .archs import arch_row, fitted, format_archs, measure_archs, predict
from .config import BenchmarkConfig, ProjectConfig, SetupConfig, check_config, setup_from
from .recipe import project
from .results import format_rows, read_stored, regressions, to_json
from .steps import Setup
from .suite import loading_rows, measure_steps, settings_of

_logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the flags say; returns the exit code, 1 where `--check` finds a regression.

    Raises:
        DebiasError: a mistake in the flags, before any measurement.
    """
    setup_logging()
    known = '; '.join(f'{name}: {text}' for name, text in describe_stylizers().items())
    parser = Parser(
        prog='timm-debias benchmark',
        description="What debiased training costs on this machine, as ratios to timm's plain step for the same model "
        'and n clean images: all is timed in turns in one run, so that load slows everything alike.',
        epilog=f'Stylizers: {known}',
    )
    for config_class in (BenchmarkConfig, SetupConfig, ProjectConfig):
        add_flags(parser, config_class)
    args = parser.parse_args(argv)
    config, setup_config = config_from(BenchmarkConfig, args), config_from(SetupConfig, args)
    project_config = config_from(ProjectConfig, args)
    check_config(config, setup_config, project_config)
    keep_freed_memory()  # As train.py does on a CPU.
    if config.project_recipe is not None:
        print(project(config, setup_config, project_config), end='')
        return 0
    check_output(config.output)
    setup = setup_from(setup_config)
    if config.archs:
        return _measure_archs(config, setup)
    return _measure_steps(config, setup)


def _measure_steps(config: BenchmarkConfig, setup: Setup) -> int:
    settings = settings_of(setup, config.repeats)
    stored = None if config.check is None else read_stored(config.check, settings)
    stylizers = create_stylizers(config.stylizers, config.stylizer_weights or [], '--stylizer-weights')
    measured = measure_steps(setup, stylizers, config.repeats, config.suite)
    rows = measured.rows + (loading_rows(setup, config.repeats) if config.suite else [])
    speeds = {'seconds': measured.seconds, 'images_per_second': measured.images_per_second}
    _write(config, to_json(settings, rows, **speeds), format_rows(rows))
    found = [] if stored is None else regressions(rows, stored)
    for line in found:
        _logger.warning(f'Regression: {line}')
    return 1 if found else 0


def _measure_archs(config: BenchmarkConfig, setup: Setup) -> int:
    stylizers = create_stylizers(config.stylizers, config.stylizer_weights or [], '--stylizer-weights')
    results = measure_archs(setup, config.archs or [], next(iter(stylizers.values())), config.repeats)
    settings = settings_of(setup, config.repeats) | {'model': config.archs, 'stylizer': config.stylizers[0]}
    rows = [arch_row(result) for result in results]
    report = {'settings': settings, 'archs': rows, 'predicted': predict(results), 'cost_model': fitted(results)}
    _write(config, json.dumps(report, indent=4) + '\n', format_archs(results))
    return 0


def _write(config: BenchmarkConfig, report: str, table: str) -> None:
    output = Path(config.output)
    write_text(output / 'benchmark.json', report)
    write_text(output / 'benchmark.md', table)
    _logger.info(f'Results: {output}')
    print(table, end='')
