"""From run folders to tables: results.csv, a row for each run, and measured.json, what the figures were measured on."""

import csv
import io
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.utils import natural_key

from ..corruptions import MAIN
from ..errors import DebiasError
from ..escaping import csv_cell
from ..files import write_text
from ..schema import checked, count, list_of, mapping_of, number, record, text
from ..training.saver import rank
from ..untrusted import check_limits, read_json
from ..validation.results import read_results
from .config import CHECKPOINTS
from .grid import Run, run_name
from .runner import RESULTS as RUN_RESULTS
from .runner import state_of

KEYS = ('data', 'model', 'method', 'seed', 'status', 'error', 'weights', 'flags', 'processes')
"""Columns of results.csv that hold no figures."""

RESULTS, MEASURED = 'results.csv', 'measured.json'
PARAMETERS = 'param_count'
"""Column of the millions of parameters, with timm's name."""

_KEY = ('data', 'model', 'benchmark')
CORRUPTED = ('folder-c', 'imagenet-c')
"""Benchmarks with errors by corruption and severity."""

_SEVERITY = re.compile(r'(folder-c|imagenet-c)/\w+/[1-5]')

_MEASURED = 'the measured.json of a study'

_measured = record(
    {
        'benchmarks': list_of(
            record(
                {
                    'data': text,
                    'model': text,
                    'benchmark': text,
                    'protocol': text,
                    'images': count,
                    'fingerprint': text,
                    'notes': list_of(text),
                    'skipped': count,
                }
            )
        ),
        'versions': list_of(mapping_of(text)),
    }
)


@dataclass(frozen=True)
class Row:
    """A run in the tables."""

    data: str
    model: str
    method: str
    seed: int
    status: str
    error: str = ''
    weights: str = ''
    """First digits of the SHA-256 of the weights that were measured."""

    flags: str = ''
    """First digits of the SHA-256 of its flags."""

    processes: int = 1
    """Processes of torchrun, or 1."""

    figures: Mapping[str, float] | None = None
    """By column, None where the run is not finished: percent, `PARAMETERS`, and the seconds of training and measuring.

    `seconds_train` and `seconds_validate` are CPU time, data workers included; a stage that used GPUs has
    `gpu_seconds_train` or `gpu_seconds_validate` instead, wall time. Both are times the number of processes, and added
    up over the parts of a run that was interrupted, but for those that were killed.
    """

    @property
    def name(self) -> str:
        """Name of its run."""
        return run_name(self.data, self.model, self.method, self.seed)


@dataclass(frozen=True)
class Collected:
    """All that a report is made from, besides the study file."""

    rows: list[Row]
    measured: dict[str, Any]


@dataclass(frozen=True)
class Stored:
    """Results of an earlier call, with which a study goes on elsewhere."""

    rows: Mapping[str, Row]
    """Finished runs by name."""

    measured: dict[str, Any]


def read_stored(folder: Path, runs: Sequence[Run]) -> Stored:
    """Return those runs that results.csv in a folder has as finished, with the same flags.

    Raises:
        DebiasError: no results, or not those of a study.
    """
    names = {(run.data, run.model, run.method, run.seed, run.flags): run.name for run in runs}
    rows = {}
    for row in read_csv(folder / RESULTS):
        name = names.get((row.data, row.model, row.method, row.seed, row.flags))
        if name is not None and row.figures is not None:
            rows[name] = row
    return Stored(rows, read_measured(folder / MEASURED))


def collect(runs: Sequence[Run], folder: Path, stored: Stored | None = None) -> Collected:
    """Return what the run folders hold, and of the other runs what is stored.

    Raises:
        DebiasError: runs of one data set and architecture that were not measured alike, or on other images.
    """
    rows: list[Row] = []
    protocols: dict[tuple[str, str, str], tuple[dict[str, Any], str]] = {}
    versions: list[dict[str, str]] = []
    if stored is not None and stored.rows:
        versions += stored.measured['versions']
        taken = {(row.data, row.model) for row in stored.rows.values()}
        for entry in stored.measured['benchmarks']:
            key = (entry['data'], entry['model'], entry['benchmark'])
            if key[:2] not in taken:  # Of runs with other flags, or of another study, which has some of these runs.
                continue
            protocols[key] = ({name: value for name, value in entry.items() if name not in _KEY}, 'the stored runs')
    for run in runs:
        state = state_of(folder, run)
        keys = (run.data, run.model, run.method, run.seed, state['status'])
        if state['status'] != 'finished':
            unfinished = Row(*keys, error=state.get('error', ''), flags=run.flags)
            rows.append(unfinished if stored is None else stored.rows.get(run.name, unfinished))
            continue
        results = read_results(folder / run.name / RUN_RESULTS)
        figures = dict(figures_of(results['benchmarks'])) | _of_training(folder, run, state)
        figures[PARAMETERS] = results[PARAMETERS]
        weights = results['weights'][:12]
        rows.append(Row(*keys, weights=weights, flags=run.flags, processes=state['processes'], figures=figures))
        for name, entry in results['benchmarks'].items():
            _check_alike(protocols, run, name, entry)
        if state['versions'] not in versions:
            versions.append(state['versions'])
    _check_processes(rows)
    benchmarks = [
        {'data': data, 'model': model, 'benchmark': name} | entry
        for (data, model, name), (entry, _) in protocols.items()
    ]
    return Collected(rows, {'benchmarks': benchmarks, 'versions': versions})


def _check_processes(rows: Iterable[Row]) -> None:
    """Raise `DebiasError` where finished runs that are compared had other numbers of processes: other batch sizes."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.figures is None:
            continue
        other = first.setdefault((row.data, row.model), row)
        if row.processes != other.processes:
            raise DebiasError(
                f'{row.name} was trained in {row.processes} processes and {other.name} in {other.processes}, so they '
                'cannot be compared; train one of them again, with --nproc-per-node as for the other'
            )


def check_stored(stored: Stored, runs: Iterable[Run], processes: int) -> None:
    """Raise `DebiasError` where `runs` could not be compared with stored ones, being of another number of processes."""
    groups = {(run.data, run.model) for run in runs}
    for row in stored.rows.values():
        if (row.data, row.model) in groups and row.processes != processes:
            raise DebiasError(
                f'--stored has {row.name}, trained in {row.processes} processes; give --nproc-per-node '
                f'{row.processes} instead of {processes}, so that the other runs can be compared with it'
            )


def check_rows(runs: Sequence[Run], path: Path) -> None:
    """Check that results.csv is of these runs: a report says what the study file says.

    Raises:
        DebiasError: a row that is no run of the study, or has other flags.
    """
    flags = {run.name: run.flags for run in runs}
    names = {run.name: (run.data, run.model, run.method, run.seed) for run in runs}
    for row in read_csv(path):
        if names.get(row.name) != (row.data, row.model, row.method, row.seed):
            reason = 'which is no run of the study'
        elif row.figures is not None and row.flags != flags[row.name]:
            reason = f"with other flags (column flags: '{row.flags}', those of the study: '{flags[row.name]}')"
        else:
            continue
        raise DebiasError(
            f'{path} has {row.name}, {reason}; restore the study file, or write another report with '
            f'--report-only --stored {path.parent} --report-dir DIR'
        )


def _check_alike(
    protocols: dict[tuple[str, str, str], tuple[dict[str, Any], str]], run: Run, name: str, entry: Mapping[str, Any]
) -> None:
    kept = {key: entry[key] for key in ('protocol', 'images', 'fingerprint', 'subset', 'partial', 'notes')}
    kept['skipped'] = len(entry['skipped'])
    first, other = protocols.setdefault((run.data, run.model, name), (kept, run.name))
    for key, value in kept.items():
        if value != first.get(key):
            raise DebiasError(
                f'{run.name} and {other} were not measured alike on {name}: {key} is {value!r} and {first.get(key)!r}; '
                'measure one of them again (remove its results folder and run.json, and call the study again)'
            )


def figures_of(benchmarks: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """Yield column and value, percent, of all figures that the report may show."""
    for name, entry in benchmarks.items():
        yield from ((f'{name}_{key}', value) for key, value in entry['headline'].items() if value is not None)
        metrics = entry['metrics']
        if name in CORRUPTED:
            for corruption, severities in metrics['errors'].items():
                for severity, row in severities.items():
                    yield f'{name}/{corruption}/{severity}', row['error']
        for category, counts in metrics.get('categories', {}).items():
            for cue in ('shape', 'texture'):
                if counts['images']:
                    yield f'{name}/{category}/{cue}', 100 * counts[cue] / counts['images']


def _of_training(folder: Path, run: Run, state: Mapping[str, Any]) -> dict[str, float]:
    """Return the validation accuracy of the epoch whose weights were measured, and the seconds of both stages."""
    path = folder / run.name / 'summary.csv'
    metric = run.train.get('eval_metric') or 'top1'
    try:
        with open(path, newline='', encoding='utf-8') as file:
            epochs = list(csv.DictReader(file))
        measured = epochs[-1]
        if run.checkpoint == CHECKPOINTS['best'] and f'eval_{metric}' in measured:
            measured = min(epochs, key=lambda row: rank(float(row[f'eval_{metric}'] or 'nan'), metric == 'loss'))
        top1 = {'validation_top1': _figure(measured['eval_top1'])} if 'eval_top1' in measured else {}
    except (OSError, csv.Error, IndexError, ValueError, TypeError) as error:
        raise DebiasError(f'{path}: not the summary of a finished run ({error})') from error
    seconds = {}
    for stage, spent in state['seconds'].items():
        column, clock = (f'gpu_seconds_{stage}', 'wall') if 'gpu' in spent else (f'seconds_{stage}', 'cpu')
        seconds[column] = state['processes'] * spent[clock]
    return seconds | top1


def corruption_columns(names: Collection[str], benchmark: str) -> dict[str, dict[int, str]]:
    """Return, for each of the 15 main corruptions of which a benchmark has errors, its columns by severity."""
    columns: dict[str, dict[int, str]] = {}
    for corruption in MAIN:
        for column in names:
            if column.startswith(f'{benchmark}/{corruption}/'):
                columns.setdefault(corruption, {})[int(column.rpartition('/')[2])] = column
    return columns


def format_csv(rows: Sequence[Row]) -> str:
    """Return results.csv: a line for each run, its figures to four digits."""
    columns = sorted({column for row in rows for column in row.figures or {}}, key=natural_key)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow([*KEYS, *columns])
    for row in rows:
        figures = row.figures or {}
        values = [f'{figures[column]:.4f}'.rstrip('0').rstrip('.') if column in figures else '' for column in columns]
        writer.writerow([*(csv_cell(getattr(row, key)) for key in KEYS), *values])
    return file.getvalue()


def read_csv(path: Path) -> list[Row]:
    """Return the rows of a file that `format_csv` wrote.

    Raises:
        DebiasError: another file, or one with a run in two lines.
    """
    try:
        with open(path, newline='', encoding='utf-8') as file:
            lines = list(csv.DictReader(file))
        rows = [_row(line) for line in lines]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise DebiasError(f'{path}: not the results.csv of a study ({error})') from error
    names: set[str] = set()
    for row in rows:
        if row.name in names:
            raise DebiasError(f'{path} has {row.name} twice; take one of the two lines out')
        names.add(row.name)
    return rows


def _row(line: Mapping[str, str]) -> Row:
    """Return the row of a line.

    Raises:
        KeyError, TypeError, ValueError: it is none; a line that is too short or too long has None in it.
    """
    check_limits(dict(line))
    if None in line or None in line.values():
        raise ValueError('a line with more or fewer fields than the first')
    line = {'processes': '1', **line}  # Tables without this column count as of one.
    keys: dict[str, Any] = {key: line[key] for key in KEYS}
    keys |= {key: int(line[key]) for key in ('seed', 'processes')}
    count(keys['processes'], 'processes')
    figures = {column: _figure(value) for column, value in line.items() if column not in KEYS and value != ''}
    for column in figures:
        benchmark, slash, _ = column.partition('/')
        if slash and benchmark in CORRUPTED and not _SEVERITY.fullmatch(column):
            raise ValueError(f"'{column}' is no column of corruption and severity")
    return Row(**keys, figures=figures if line['status'] == 'finished' else None)


def _figure(word: str) -> float:
    value = float(word)
    number(value, 'figure')
    return value


def read_measured(path: Path) -> dict[str, Any]:
    """Return what a file that `format_measured` wrote says.

    Raises:
        DebiasError: another file.
    """
    return checked(read_json(path, _MEASURED), _measured, path, _MEASURED)


def format_measured(measured: Mapping[str, Any]) -> str:
    """Return measured.json."""
    return json.dumps(measured, indent=1, ensure_ascii=False) + '\n'


def check_kept(collected: Collected, folder: Path) -> None:
    """Check that `store` would not lose finished runs that results.csv in a folder has.

    Raises:
        DebiasError: it would, or the folder has another results.csv.
    """
    path = folder / RESULTS
    if not path.is_file():
        return
    finished = {row.name for row in collected.rows if row.figures is not None}
    lost = [row.name for row in read_csv(path) if row.figures is not None and row.name not in finished]
    if lost:
        raise DebiasError(
            f'{path} has {len(lost)} finished runs that this study has not, such as {lost[0]}, and would lose them; '
            f'take them too, with --stored {folder}, or, where they are of another study, choose another --report-dir'
        )


def store(collected: Collected, folder: Path) -> None:
    """Write what a report is made from: results.csv and measured.json."""
    write_text(folder / RESULTS, format_csv(collected.rows))
    write_text(folder / MEASURED, format_measured(collected.measured))
