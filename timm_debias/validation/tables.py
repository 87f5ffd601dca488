"""Results for people and spreadsheets: results.json, results.csv and results.md."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..escaping import csv_cell, markdown_text
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
    """Return the headline figures as a Markdown table, the protocols, and the categories of cue conflict."""
    lines = [
        f'# {markdown_text(results["model"])}',
        '',
        f'{results["param_count"]} M parameters, weights {markdown_text(results["weights"][:12])}. All figures in '
        'percent; in brackets, the Wilson 95 % interval of an accuracy.',
        '',
        '| benchmark | figure | value | images |',
        '| --- | --- | --- | --- |',
    ]
    for name, entry in results['benchmarks'].items():
        images = ', '.join(filter(None, [f'{entry["images"]:,}', markdown_text(mark_of(entry))]))
        for key in entry['headline']:
            lines.append(f'| {markdown_text(name)} | {markdown_text(key)} | {_value(entry, key)} | {images} |')
    if 'cue-conflict' in results['benchmarks']:
        lines += ['', *_cue_conflict(results['benchmarks']['cue-conflict']['metrics'])]
    lines += ['', '## Protocols', '']
    for name, entry in results['benchmarks'].items():
        lines.append(f'- {markdown_text(name)}: {markdown_text("; ".join([entry["protocol"], *entry["notes"]]))}.')
    lines += [
        f'- {markdown_text(name)}: not measured, {markdown_text(reason)}.' for name, reason in results['absent'].items()
    ]
    return '\n'.join(lines) + '\n'


def mark_of(entry: Mapping[str, Any]) -> str:
    """Return what to say beside the figures of a benchmark that was not measured as a whole, else an empty text."""
    marks = [entry['subset']] if entry['subset'] else []
    marks += ['partial'] if entry['partial'] else []
    marks += [f'{len(entry["skipped"])} skipped'] if entry['skipped'] else []
    return ', '.join(marks)


def interval_of(entry: Mapping[str, Any], key: str) -> list[float] | None:
    """Return the interval [low, high] of a headline figure of a benchmark, None where it has none."""
    for point in entry['metrics'].get('curve', []):
        if key == f'top1_eps{point["epsilon"]:g}':
            return point['top1_interval']
    return entry['metrics'].get(f'{key}_interval')


def _value(entry: Mapping[str, Any], key: str) -> str:
    value, interval = entry['headline'][key], interval_of(entry, key)
    if value is None:
        return '–'
    return f'{value:.2f}' + (f' [{interval[0]:.2f}, {interval[1]:.2f}]' if interval else '')


def _cue_conflict(metrics: Mapping[str, Any]) -> list[str]:
    """Return the table of shape bias by category, with the published figures below."""
    lines = ['## Cue conflict', '', '| shape | images | by shape | by texture | shape bias |', '| --- |' + ' --- |' * 4]
    for category, row in metrics['categories'].items():
        bias = '–' if row['shape_bias'] is None else f'{row["shape_bias"]:.2f}'
        lines.append(f'| {markdown_text(category)} | {row["images"]} | {row["shape"]} | {row["texture"]} | {bias} |')
    for name, bias in metrics['published_shape_bias'].items():
        lines.append(f'| all: {markdown_text(name)}, published | | | | {bias:.2f} |')
    return lines
