"""Rows of a measurement: a table, JSON, and the comparison with stored ones."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DebiasError, reason
from ..markdown import table_lines
from ..schema import number
from ..untrusted import read_json
from .timing import Ratio

BAND = 1.3
"""A ratio may be worse than the stored one by this factor: machines and their load differ, regressions are larger."""

NOISE = 0.01
"""And by this much: what takes less than a hundredth of a plain step, a few milliseconds, is timed less exactly."""

_SAME = ('model', 'img_size', 'batch_size', 'device', 'precision', 'channels_last', 'torchcompile')
"""Settings that stored ratios must have in common with new ones."""

_EXPECTED = 'a benchmark.json of timm-debias benchmark'


@dataclass(frozen=True)
class Row:
    """A measured ratio.

    Attributes:
        name: What was measured.
        unit: What it is a ratio to.
        value: Median over turns.
        low: Lower quartile.
        high: Upper quartile.
        limit: Target, a value not to exceed (with `at_least`, to reach); None where there is none.
        at_least: Whether more is better.
    """

    name: str
    unit: str
    value: float
    low: float
    high: float
    limit: float | None = None
    at_least: bool = False

    @classmethod
    def of(cls, name: str, unit: str, ratio: Ratio, **options: Any) -> 'Row':
        """Return the row of a measured ratio."""
        return cls(name, unit, *ratio, **options)

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def format_rows(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    table = []
    for row in rows:
        sign = '≥' if row.at_least else '≤'
        target = f'{sign} {row.limit:g}' if row.limit is not None else ''
        met = {True: 'yes', False: '**no**', None: ''}[row.is_met]
        quartiles = f'{row.low:.3f} – {row.high:.3f}'
        table.append([row.name, f'{row.value:.3f}', quartiles, row.unit, target, met])
    return '\n'.join(table_lines(['', 'median', 'quartiles', 'in', 'target', 'met'], table)) + '\n'


def to_json(settings: Mapping[str, Any], rows: Sequence[Row], **more: Any) -> str:
    """Return settings and rows as JSON."""
    entries = [asdict(row) | {'is_met': row.is_met} for row in rows]
    return json.dumps({'settings': dict(settings), 'rows': entries, **more}, indent=4) + '\n'


def read_stored(path: str, settings: Mapping[str, Any]) -> dict[str, float]:
    """Return name -> value of the rows in a file of `to_json`, measured with the same settings.

    Raises:
        DebiasError: the file is missing or no such file, or was measured with other settings.
    """
    try:
        stored = read_json(Path(path), _EXPECTED)
    except DebiasError as error:
        raise DebiasError(f'--check {error}') from error
    try:
        theirs, rows = dict(stored['settings']), {row['name']: row['value'] for row in stored['rows']}
        for name, value in rows.items():
            number(value, name)
    except (ValueError, KeyError, TypeError) as error:
        raise DebiasError(f'--check {path}: not {_EXPECTED} ({reason(error)})') from error
    for key in _SAME:
        if theirs.get(key) != settings[key]:
            raise DebiasError(
                f'--check {path}: measured with {key} {theirs.get(key)}, on which ratios depend; this run has '
                f'{settings[key]}'
            )
    return rows


def regressions(rows: Sequence[Row], stored: Mapping[str, float]) -> list[str]:
    """Return a line for each row that is worse than the stored one by more than a factor of `BAND`, and than `NOISE`.

    Raises:
        DebiasError: no row has a stored one.
    """
    known = [row for row in rows if row.name in stored]
    if not known:
        raise DebiasError('--check: none of the rows measured is in the stored file')
    found = []
    for row in known:
        old = stored[row.name]
        is_worse = row.value < old / BAND if row.at_least else row.value > old * BAND
        if is_worse and abs(row.value - old) > NOISE:
            found.append(f'{row.name}: {row.value:.3f}, stored {old:.3f}, allowed by a factor of {BAND:g}')
    return found
