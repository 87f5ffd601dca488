"""The command `timm-debias compare`: two models on the same images, by a paired test for each benchmark."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DebiasError, did_you_mean
from .escaping import markdown_text
from .files import write_output
from .flags import Parser, add_flags, config_from, flag
from .log import setup_logging
from .markdown import table_lines
from .metrics import ALEXNET_ERRORS, EXTRA_CORRUPTIONS, mcnemar, wilson_interval
from .validation.bits import unpack
from .validation.results import read_parts, read_results
from .validation.tables import mark_of

_logger = logging.getLogger(__name__)

Parts = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class CompareConfig:
    """Compare two models"""

    a: str = flag('', 'results folder of the first model, from validate.py --benchmarks … --results-dir', 'a')
    b: str = flag('', 'results folder of the second model', 'b')
    benchmarks: str = flag('', 'benchmarks to compare, separated by commas; all that both have if not given')
    output: str = flag('', 'JSON file for the comparison', metavar='FILE')


@dataclass(frozen=True)
class Row:
    """Two models on one set of images; accuracies in percent."""

    name: str
    mark: str
    """What to say where it is not the whole benchmark."""

    images: int
    versions: int
    """Versions of each image that were measured, such as the severities of a corruption."""

    a: float
    b: float
    difference: float
    """b − a, points."""

    a_interval: tuple[float, float] | None = None
    b_interval: tuple[float, float] | None = None
    only_a: int | None = None
    """Images that only the first model gets right; of several versions, images of which it gets more right."""

    only_b: int | None = None
    p: float | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison that the flags ask for; returns the exit code.

    Raises:
        DebiasError: folders without results, or results that were not measured on the same images.
    """
    setup_logging()
    parser = Parser(
        prog='timm-debias compare',
        description="Compare two models that were measured on the same images, by McNemar's exact test.",
    )
    add_flags(parser, CompareConfig)
    config = config_from(CompareConfig, parser.parse_args(argv))
    names = [name.strip() for name in config.benchmarks.split(',')] if config.benchmarks else None
    comparison = compare(Path(config.a), Path(config.b), names)
    if config.output:
        write_output(config.output, json.dumps(comparison, indent=4, ensure_ascii=False) + '\n')
        _logger.info(f'Comparison: {config.output}')
    print(format_comparison(comparison), end='')
    return 0


def compare(a: Path, b: Path, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the comparison of two results folders as JSON values.

    Args:
        a: Folder of the first model.
        b: Folder of the second model.
        names: Benchmarks; None for all that both have.

    Returns:
        `a` and `b` (folder, model, weights), `rows` (see `Row`) and `notes` (sentences).

    Raises:
        DebiasError: see `main`.
    """
    first, second = read_results(a), read_results(b)
    common = [name for name in first['benchmarks'] if name in second['benchmarks']]
    if not common:
        raise DebiasError(
            f'no benchmark was measured for both: {a} has {", ".join(first["benchmarks"])}, {b} has '
            f'{", ".join(second["benchmarks"])}'
        )
    for name in names or []:
        if name not in common:
            raise DebiasError(f"--benchmarks: '{name}' was not measured for both. {did_you_mean(name, common)}")
        if (names or []).count(name) > 1:
            raise DebiasError(f'--benchmarks names {name} twice')
    rows: list[Row] = []
    notes = ['both folders have the same weights'] if first['weights'] == second['weights'] else []
    for name in names or common:
        entries = first['benchmarks'][name], second['benchmarks'][name]
        _check_entries(name, *entries)
        parts_a, parts_b = read_parts(a, name), read_parts(b, name)
        shared = [part for part in parts_a if part in parts_b]
        for part in shared:
            _check_parts(part, parts_a[part], parts_b[part])
        if entries[0]['protocol'] != entries[1]['protocol']:
            notes.append(f'{name}: the protocols differ. A: {entries[0]["protocol"]}. B: {entries[1]["protocol"]}')
        told = [part for part in shared if _tells(parts_a[part]) and _tells(parts_b[part])]
        if not shared:
            notes.append(f'{name}: not compared, A has {", ".join(parts_a)} and B has {", ".join(parts_b)}')
        elif not told:
            notes.append(f'{name}: not compared, it was not stored which images are right')
        mark = mark_of(entries[0])
        rows += [_row(label, mark, group, parts_a, parts_b) for label, group in _groups(name, told, parts_a).items()]
    if not rows:
        raise DebiasError(f'nothing to compare: {"; ".join(notes)}')
    described = {
        side: {'folder': str(folder), 'model': results['model'], 'weights': results['weights']}
        for side, folder, results in (('a', a, first), ('b', b, second))
    }
    return {**described, 'rows': [asdict(row) for row in rows], 'notes': notes}


def _check_entries(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    leave_out = 'compare the other benchmarks with --benchmarks'
    if a['subset'] != b['subset']:
        raise DebiasError(
            f'{name}: A was measured on {a["subset"] or "all images"} and B on {b["subset"] or "all images"}; measure '
            f'both alike, or {leave_out}'
        )
    if a['fingerprint'] != b['fingerprint']:
        raise DebiasError(
            f'{name}: A and B were not measured on the same images (fingerprints {a["fingerprint"][:12]} and '
            f'{b["fingerprint"][:12]}); measure both on one copy of the data, or {leave_out}'
        )


def _check_parts(part: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    for key, what in (('fingerprint', 'images'), ('images', 'images'), ('targets', 'labels')):
        if a['identity'][key] != b['identity'][key]:
            raise DebiasError(f'{part}: A and B were measured with other {what}; measure both on one copy of the data')
    # The copies may lie in two places: folder and file tell an image, where the fingerprint is the same.
    skipped = [[Path(name).parts[-2:] for name in part_of['result']['skipped']] for part_of in (a, b)]
    if skipped[0] != skipped[1]:
        raise DebiasError(
            f'{part}: A skipped {len(skipped[0])} unreadable images and B {len(skipped[1])}, not the same ones; '
            'mend the data and measure both again, or compare the other benchmarks with --benchmarks'
        )


def _tells(part: Mapping[str, Any]) -> bool:
    return part['result'].get('right') is not None


def _groups(name: str, parts: Sequence[str], contents: Parts) -> dict[str, list[str]]:
    """Return the parts of each row: one part, but for corruptions all severities of one, and all there are."""
    if name not in ('imagenet-c', 'folder-c'):
        return {part + (', by shape' if 'shape' in contents[part]['result']['state'] else ''): [part] for part in parts}
    groups = {
        f'{name}/{corruption}': [part for part in parts if part.split('/')[1] == corruption]
        for corruption in (*ALEXNET_ERRORS, *EXTRA_CORRUPTIONS)
    }
    groups = {label: group for label, group in groups.items() if group}
    return groups | ({f'{name}, {len(groups)} corruptions': list(parts)} if groups else {})


def _row(label: str, mark: str, group: Sequence[str], a: Parts, b: Parts) -> Row:
    rights = [[_right(part, contents[part]) for part in group] for contents in (a, b)]
    accuracy_a, accuracy_b = (100 * float(np.concatenate(side).mean()) for side in rights)
    images = max(len(right) for right in rights[0])
    row = Row(label, mark, images, len(group), accuracy_a, accuracy_b, difference=accuracy_b - accuracy_a)
    labels = {a[part]['identity']['targets'] for part in group}
    if len(group) > 1 and (len(labels) > 1 or any(a[part]['result']['skipped'] for part in group)):
        # Which files are versions of one image is not known.
        return row
    # Versions of one image are not independent: an image counts once, for the model that gets more of them right. The
    # interval is that of as many images, and so too wide rather than too narrow.
    counts = [np.sum(side, axis=0, dtype=int) for side in rights]
    intervals = [_interval(round(int(count.sum()) / len(group)), images) for count in counts]
    only_a, only_b = int((counts[0] > counts[1]).sum()), int((counts[0] < counts[1]).sum())
    p = mcnemar(only_a, only_b)
    return replace(row, a_interval=intervals[0], b_interval=intervals[1], only_a=only_a, only_b=only_b, p=p)


def _right(part: str, contents: Mapping[str, Any]) -> np.ndarray:
    result = contents['result']
    try:
        return unpack(result['right'], result['images'])
    except ValueError as error:
        raise DebiasError(f'{part}: what is stored of its images is damaged ({error}); measure it again') from error


def _interval(right: int, images: int) -> tuple[float, float]:
    low, high = wilson_interval(right, images)
    return 100 * low, 100 * high


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as Markdown: a table, and what to know about it."""
    lines = [
        f'{side.upper()}: {markdown_text(comparison[side]["model"])}, {markdown_text(comparison[side]["folder"])}, '
        f'weights {markdown_text(comparison[side]["weights"][:12])}  '
        for side in 'ab'
    ]
    rows = []
    for row in comparison['rows']:
        name = markdown_text(f'{row["name"]} ({row["mark"]})' if row['mark'] else row['name'])
        images = f'{row["images"]:,}' + (f' × {row["versions"]}' if row['versions'] > 1 else '')
        cells = [name, images, *(_accuracy(row[side], row[f'{side}_interval']) for side in 'ab')]
        cells += [f'{row["difference"]:+.2f}', _count(row['only_a']), _count(row['only_b']), format_p(row['p'])]
        rows.append(cells)
    lines += [
        '',
        *table_lines(['benchmark', 'images', 'A', 'B', 'B − A', 'only A', 'only B', 'p'], rows),
        '',
        "Accuracies in percent with Wilson 95 % intervals, differences in points; p of McNemar's exact test, "
        'two-sided, of each row by itself: of many rows, some fall below 0.05 by chance.',
    ]
    if any(row['versions'] > 1 for row in comparison['rows']):
        lines.append(
            'Where an image has several versions, it counts once, for the model that gets more of them right; the '
            'interval is that of so many images.'
        )
    return '\n'.join([*lines, *(f'- {markdown_text(note)}.' for note in comparison['notes'])]) + '\n'


def _accuracy(value: float, interval: Sequence[float] | None) -> str:
    return f'{value:.2f}' + (f' [{interval[0]:.2f}, {interval[1]:.2f}]' if interval else '')


def _count(number: int | None) -> str:
    return '–' if number is None else f'{number:,}'


def format_p(p: float | None) -> str:
    """Return a p-value to two digits."""
    if p is None:
        return '–'
    return f'{p:.2g}' if p >= 1e-4 else '< 0.0001'
