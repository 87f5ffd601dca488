"""The command `timm-debias study`."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..bounds import COUNT, check_bounds
from ..errors import DebiasError
from ..files import check_output
from ..flags import Parser, add_flags, check_values, config_from, flag
from ..log import setup_logging
from ..markdown import counted
from ..training.config import ScheduleConfig
from ..training.main import build_parser as train_parser
from ..training.signals import Stopped
from ..validation.model_lists import parse_shard
from .collect import RESULTS, Stored, check_kept, check_rows, check_stored, collect, read_stored, store
from .config import Study, read_study
from .grid import Run, check_names, check_runs, expand, select
from .measures import check_measures
from .prepare import check_steps, make_all
from .report import SAMPLES, write_report
from .runner import Launch, run_all, state_of
from .samples import save_samples

_logger = logging.getLogger(__name__)

_OWN_NAMES = ('MADE', 'data', 'model', 'method', 'seed')
"""What `--set` cannot say."""


@dataclass(frozen=True)
class StudyConfig:
    """Running a study"""

    study: str = flag('', 'YAML file of the study', 'study', metavar='STUDY.yaml')
    output: str | None = flag(None, 'folder for the runs, output/study/NAME if not given', metavar='DIR')
    variables: list[str] = flag(
        [], 'what ${NAME} stands for in the file; repeatable', '--set', nargs='+', action='extend', metavar='NAME=VALUE'
    )
    runs: list[str] = flag([], 'only runs whose names match one of these wildcards', nargs='+', metavar='PATTERN')
    shard: str = flag('1/1', 'take every n-th run from the i-th, counted from 1: for job arrays', metavar='I/N')
    jobs: int = flag(1, 'runs at once', metavar='N')
    threads: int | None = flag(
        None, 'CPU threads of each run; the cores divided by --jobs if not given', type=int, metavar='N'
    )
    nproc_per_node: int = flag(1, 'processes of each run, started by torchrun, one a GPU', metavar='N')
    list_runs: bool = flag(False, 'print the runs and how far they are, and stop', '--list')
    report_only: bool = flag(False, 'write the report on what is finished, and run nothing')
    from_results: bool = flag(False, 'write the report anew from results.csv in --report-dir, without the runs')
    stored: str | None = flag(
        None, 'folder with results.csv and measured.json: runs that it has with the same flags are not repeated'
    )
    report_dir: str | None = flag(None, 'folder for the report, the folder report in --output if not given')


def build_parser() -> Parser:
    """Return the parser of the command's flags."""
    parser = Parser(
        prog='timm-debias study',
        description='Train every method with every seed, architecture and data set of a study file, measure all on '
        'the same benchmarks, and report means, intervals and paired tests. The same command goes on where it was '
        'interrupted, and tries again what failed.',
    )
    add_flags(parser, StudyConfig)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not finished of a study, then write its report; returns the exit code.

    Raises:
        DebiasError: a mistake in the study or the flags, before anything is run; or a folder that cannot be written.
    """
    setup_logging()
    config = config_from(StudyConfig, build_parser().parse_args(argv))
    study = read_study(Path(config.study))
    output = Path(config.output or f'output/study/{study.name}')
    report_dir = Path(config.report_dir) if config.report_dir else output / 'report'
    _check(config)
    runs = expand(study)
    if not config.list_runs:
        check_output(report_dir, '--report-dir')
    if config.from_results:
        if (report_dir / RESULTS).is_file():
            check_rows(runs, report_dir / RESULTS)
        with _written(f'--report-dir {report_dir} cannot be written', 'the same command writes it later'):
            write_report(study, report_dir)
        _logger.info(f'Report: {report_dir / "report.md"}')
        return 0
    variables = _variables(config.variables, output)
    chosen = select(runs, config.runs, parse_shard(config.shard))
    stored = read_stored(Path(config.stored), runs) if config.stored else None
    if config.list_runs:
        _list(chosen, output / 'runs', stored)
        return 0
    failed = False
    if not config.report_only:
        left = [run for run in chosen if stored is None or run.name not in stored.rows]
        if stored is not None:
            _logger.info(f'{len(chosen) - len(left)} of {len(chosen)} runs are stored.')
            check_stored(stored, left, config.nproc_per_node)
        try:
            with _written(f'--output {output}: the runs were stopped', 'the same command goes on with them'):
                failed = _run(config, study, left, variables, output)
        except Stopped as stop:
            _logger.warning(f'{stop}: stopped; the same command goes on.')
            return stop.code
        if len(chosen) < len(runs):
            _logger.info(
                'These were some of the runs; the same command with --report-only instead of --runs and --shard writes '
                'the report.'
            )
            return 1 if failed else 0
    collected = collect(runs, output / 'runs', stored)
    check_kept(collected, report_dir)
    with _written(f'--report-dir {report_dir} cannot be written', '--report-only writes it later'):
        store(collected, report_dir)
        if study.pictures:
            save_samples(study, variables, report_dir / SAMPLES)
        write_report(study, report_dir)
    _logger.info(f'Report: {report_dir / "report.html"}, and beside it report.md, results.csv and tests.csv')
    return 1 if failed else 0


@contextlib.contextmanager
def _written(failure: str, then: str) -> Iterator[None]:
    """Say `failure`, its cause, such as a full disk, and what to do `then`."""
    try:
        yield
    except OSError as error:
        raise DebiasError(f'{failure}: {error}; {then}') from error


def _check(config: StudyConfig) -> None:
    check_bounds([config], {COUNT: ('jobs', 'threads', 'nproc_per_node')})
    alone = {'--list': config.list_runs, '--report-only': config.report_only, '--from-results': config.from_results}
    given = [name for name, on in alone.items() if on]
    if len(given) > 1:
        raise DebiasError(f'{" and ".join(given)} do not go together')
    if given and given != ['--list'] and (config.runs or config.shard != '1/1'):
        raise DebiasError(f'{given[0]} is for the whole study: leave --runs and --shard out')
    if config.from_results and config.stored:
        raise DebiasError('--from-results takes the results in --report-dir alone: leave --stored out')


def _list(runs: Sequence[Run], folder: Path, stored: Stored | None) -> None:
    total = 0
    parser = train_parser()
    for run in runs:
        given = {name: value for name, value in run.train.items() if name == 'epochs'}
        epochs = check_values(given, parser, f'{run.name}: train.py').get('epochs', ScheduleConfig().epochs)
        total += epochs
        status = 'stored' if stored is not None and run.name in stored.rows else state_of(folder, run)['status']
        print(f'{run.name}: {status}, {counted(epochs, "epoch")}')
    print(f'{counted(len(runs), "run")}, {counted(total, "epoch")}')


def _variables(items: Sequence[str], output: Path) -> dict[str, str]:
    variables = {'MADE': str(output / 'made')}
    for item in items:
        name, separator, value = item.partition('=')
        if not separator or not name.isidentifier():
            raise DebiasError(f"--set '{item}': expected NAME=VALUE")
        if name in _OWN_NAMES:
            raise DebiasError(f"--set '{item}': ${{{name}}} is what the study itself says; choose another name")
        if name in variables:
            raise DebiasError(f"--set '{item}': {name} is given twice")
        variables[name] = value
    return variables


def _run(config: StudyConfig, study: Study, runs: Sequence[Run], variables: dict[str, str], output: Path) -> bool:
    """Run what is not finished, and return whether a run failed or was stopped."""
    check_output(output)
    check_names(runs, config.study)
    # What finished runs were trained and measured on need not be here.
    if unfinished := [run for run in runs if state_of(output / 'runs', run)['status'] != 'finished']:
        check_steps(study, variables, config.study)
        check_runs(unfinished, variables, study.make, config.study)
        check_measures(study.measures, expand(study), variables, config.study)
        make_all(study, variables, output / 'made')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    threads = config.threads or max(1, cores // (config.jobs * config.nproc_per_node))
    launch = Launch(output / 'runs', variables, config.jobs, threads, config.nproc_per_node)
    outcomes = run_all(runs, launch)
    left = False
    for status in ('failed', 'stopped'):
        names = [name for name, outcome in outcomes.items() if outcome == status]
        if names:
            _logger.warning(f'{len(names)} of {len(runs)} runs {status}: {", ".join(names)}')
            left = True
    return left
