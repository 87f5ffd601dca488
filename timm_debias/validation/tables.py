"""Results for people and spreadsheets: results.json, results.csv and results.md."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..escaping import csv_cell, markdown_text
from ..markdown import table_lines
from ..metrics import SEVERITIES
from .results import write_json, write_result

_NOT_COLUMNS = ('weights', 'settings', 'absent', 'benchmarks')


def write_tables(folder: Path, results: Mapping[str, Any]) -> None:
    """Write results.json (everything), results.csv (a row with timm's columns first) and results.md, atomically.

    Raises:
        DebiasError: the disk is full or the folder cannot be written; older files are as they were.
    """
    write_json(folder / 'results.json', results)
    write_result(folder / 'results.csv', format_row(results))
    write_result(folder / 'results.md', format_results(results))


def format_row(results: Mapping[str, Any]) -> str:
    """Return the header and the row of a CSV file: timm's columns, then a column for each headline figure."""
    row = table_row(results)
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=list(row), lineterminator='\n')
    writer.writeheader()
    writer.writerow({key: csv_cell(value) for key, value in row.items()})
    return file.getvalue()


def table_row(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the results of a model goes into a table."""
    return {key: value for key, value in results.items() if key not in _NOT_COLUMNS}


def format_results(results: Mapping[str, Any]) -> str:
    """Return all figures as Markdown: a table of those of benchmarks, tables by corruption and category, protocols."""
    lines = [
        f'# {markdown_text(results["model"])}',
        '',
        f'{results["param_count"]} M parameters, weights {markdown_text(results["weights"][:12])}. All figures in '
        'percent; in brackets, the Wilson 95 % interval of an accuracy.',
        '',
        *_table({name: _figures(entry) for name, entry in results['benchmarks'].items()}, results),
    ]
    for name, entry in results['benchmarks'].items():
        if 'errors' in entry['metrics']:
            lines += ['', f'## {markdown_text(name)}', '', *_corruptions(entry['metrics'])]
        if 'categories' in entry['metrics']:
            lines += ['', f'## {markdown_text(name)}', '', *_categories(entry['metrics'])]
    lines += ['', '## Protocols', '']
    for name, entry in results['benchmarks'].items():
        words = '; '.join([entry['protocol'], *entry['notes']]).removesuffix('.')
        lines.append(f'- {markdown_text(name)}: {markdown_text(words)}.')
    lines += [
        f'- {markdown_text(name)}: not measured, {markdown_text(reason)}.' for name, reason in results['absent'].items()
    ]
    return '\n'.join(lines) + '\n'


def format_headline(results: Mapping[str, Any]) -> str:
    """Return the Markdown table of the headline figures alone."""
    return '\n'.join(_table({name: entry['headline'] for name, entry in results['benchmarks'].items()}, results)) + '\n'


def _table(figures: Mapping[str, Mapping[str, float | None]], results: Mapping[str, Any]) -> list[str]:
    """Return a table with a row for each of the figures of benchmarks."""
    rows = []
    for name, values in figures.items():
        entry = results['benchmarks'][name]
        for key, value in values.items():
            images = _point_of(entry, key).get('images', entry['images'])  # An attack has the same for each epsilon.
            words = ', '.join(filter(None, [f'{images:,}', markdown_text(mark_of(entry))]))
            cell = _cell(value, interval_of(entry, key))
            rows.append((markdown_text(name), markdown_text(key), cell, words))
    return table_lines(('benchmark', 'figure', 'value', 'images'), rows)


def mark_of(entry: Mapping[str, Any]) -> str:
    """Return what to say beside the figures of a benchmark that was not measured as a whole, else an empty text."""
    marks = [entry['subset']] if entry['subset'] else []
    marks += ['partial'] if entry['partial'] else []
    marks += [f'{len(entry["skipped"])} skipped'] if entry['skipped'] else []
    return ', '.join(marks)


def interval_of(entry: Mapping[str, Any], key: str) -> list[float] | None:
    """Return the interval [low, high] of a headline figure of a benchmark, None where it has none."""
    return _point_of(entry, key).get('top1_interval') or entry['metrics'].get(f'{key}_interval')


def _point_of(entry: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the point on the curve of an attack that a headline figure is of, empty for other figures."""
    curve = entry['metrics'].get('curve', [])
    return next((point for point in curve if key == f'top1_eps{point["epsilon"]:g}'), {})


def _figures(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the figures of a benchmark, the headline ones first; counts are whole numbers and no figures."""
    others = {key: value for key, value in entry['metrics'].items() if value is None or isinstance(value, float)}
    return {**entry['headline'], **others}


def _cell(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return '–'
    return f'{value:.2f}' + (f' [{interval[0]:.2f}, {interval[1]:.2f}]' if interval else '')


def _corruptions(metrics: Mapping[str, Any]) -> list[str]:
    """Return the table of errors by corruption and severity, with their mean and where there is one CE."""
    columns = ['corruption', *map(str, SEVERITIES), 'mean error', *(['CE'] if 'ce' in metrics else [])]
    rows = []
    for corruption, row in metrics['errors'].items():
        errors = [row[str(severity)]['error'] if str(severity) in row else None for severity in SEVERITIES]
        known = [error for error in errors if error is not None]
        mean = sum(known) / len(known) if len(known) == len(errors) else None
        ce = [metrics['ce'].get(corruption)] if 'ce' in metrics else []
        rows.append([markdown_text(corruption), *(_cell(value) for value in (*errors, mean, *ce))])
    return table_lines(columns, rows)


def _categories(metrics: Mapping[str, Any]) -> list[str]:
    """Return the table of shape bias by category, with published figures below where there are any."""
    rows = [
        (markdown_text(category), *(str(row[key]) for key in ('images', 'shape', 'texture')), _cell(row['shape_bias']))
        for category, row in metrics['categories'].items()
    ]
    rows += [
        (f'all: {markdown_text(name)}, published', '', '', '', f'{bias:.2f}')
        for name, bias in metrics.get('published_shape_bias', {}).items()
    ]
    return table_lines(('shape', 'images', 'by shape', 'by texture', 'shape bias'), rows)
