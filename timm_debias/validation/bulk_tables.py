"""Results of many models side by side: results.csv, results.json and results.md."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..escaping import csv_cell, markdown_text
from ..markdown import table_lines
from .results import write_result
from .tables import table_row

Results = Mapping[str, Any]

_LAST = ('checkpoint', 'folder', 'error')
_NO_FIGURES = ('model', 'top1_err', 'top5', 'top5_err', 'param_count', 'img_size', 'crop_pct', 'interpolation', *_LAST)


def write_bulk_tables(folder: Path, stem: str, models: Sequence[Results]) -> None:
    """Write the results of models as `stem`.json (everything), .csv and .md (a row for each), atomically.

    Args:
        folder: Where to.
        stem: Name of the files.
        models: Of each model, what `run_suite` returns with `folder` and `checkpoint`, or its `error`.

    Raises:
        DebiasError: the disk is full or the folder cannot be written; older files are as they were.
    """
    write_result(folder / f'{stem}.json', json.dumps(models, indent=4, ensure_ascii=False) + '\n')
    write_result(folder / f'{stem}.csv', format_rows(models))
    write_result(folder / f'{stem}.md', format_models(models))


def sort_models(models: Sequence[Results]) -> list[Results]:
    """Return models by the first figure that one of them has, best first; those without it come last."""
    figures = _figures(models)
    if not figures:
        return list(models)
    first = figures[0]
    sign = 1 if 'mce' in first or 'error' in first else -1  # Of an error, the least is best.
    known = [model for model in models if model.get(first) is not None]
    unknown = [model for model in models if model.get(first) is None]
    return [*sorted(known, key=lambda model: sign * model[first]), *unknown]


def format_rows(models: Sequence[Results]) -> str:
    """Return a CSV file: timm's columns, headline figures, then checkpoint, folder and error where there are any."""
    file = io.StringIO()
    writer = csv.DictWriter(file, fieldnames=_columns(models), lineterminator='\n')
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in table_row(model).items()} for model in models)
    return file.getvalue()


def format_models(models: Sequence[Results]) -> str:
    """Return the headline figures as a Markdown table, and the errors of models that failed."""
    figures = _figures(models)
    measured = [model for model in models if 'error' not in model]
    failed = [model for model in models if 'error' in model]
    lines = ['# Models', '', 'All figures in percent; protocols are in results.md of each folder.', '']
    rows = []
    for model in measured:
        values = ['–' if model.get(figure) is None else f'{model[figure]:.2f}' for figure in figures]
        rows.append([markdown_text(model['folder']), str(model['param_count']), *values])
    lines += table_lines(['folder', 'M parameters', *figures], rows)
    if failed:
        lines += [
            '',
            '## Failed',
            '',
            *(f'- {markdown_text(model["folder"])}: {markdown_text(model["error"])}' for model in failed),
        ]
    return '\n'.join(lines) + '\n'


def _figures(models: Sequence[Results]) -> list[str]:
    """Return the names of the figures that at least one model has: top1, then the headline figures."""
    names = [name for name in _columns(models) if name not in _NO_FIGURES]
    return [name for name in names if any(model.get(name) is not None for model in models)]


def _columns(models: Sequence[Results]) -> list[str]:
    # Models that failed have none of timm's columns, which come first.
    rows = sorted(map(table_row, models), key=lambda row: 'error' in row)
    names = dict.fromkeys(name for row in rows for name in row)
    return [*(name for name in names if name not in _LAST), *(name for name in _LAST if name in names)]
