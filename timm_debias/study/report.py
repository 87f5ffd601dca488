"""The report of a study: report.md and report.html, made from the study file, results.csv and measured.json alone."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DebiasError
from ..files import write_text
from ..markdown import counted
from .analysis import SIGNIFICANT, Difference, Group, format_tests, group_rows
from .blocks import Block, Figure, Heading, Table, Text, to_html, to_markdown
from .collect import CORRUPTED, MEASURED, PARAMETERS, RESULTS, Row, corruption_columns, read_csv, read_measured
from .config import CHECKPOINTS, Study
from .cost import Cost
from .figures import ARROWS, class_columns, draw_group, format_points
from .mce import MCE, describe_mce, reference_errors
from .settings import STUDY_FILE, describe_settings
from .statistics import Estimate

SAMPLES = 'samples.png'


def write_report(study: Study, folder: Path) -> None:
    """Write report.md, report.html, the drawings and tests.csv from what `store` wrote to `folder`.

    Raises:
        DebiasError: no results, no finished run, or a measure of the study that no run has.
    """
    if not (folder / RESULTS).is_file():
        raise DebiasError(f'{folder} has no {RESULTS} to make a report from')
    rows, measured = read_csv(folder / RESULTS), read_measured(folder / MEASURED)
    groups = group_rows(study, rows)
    if not groups:
        raise DebiasError(f'{folder / RESULTS} has no finished run of this study to report')
    blocks = build(study, rows, measured, groups, folder)
    for block in blocks:
        if isinstance(block, Figure) and isinstance(block.content, str):
            write_text(folder / block.file, block.content)
    write_text(folder / 'tests.csv', format_tests(groups))
    write_text(folder / 'report.html', to_html(study.title, blocks))
    write_text(folder / 'report.md', to_markdown(blocks))


def build(
    study: Study, rows: Sequence[Row], measured: Mapping[str, Any], groups: Sequence[Group], folder: Path
) -> list[Block]:
    """Return the report that is to lie in a folder."""
    samples, linked = folder / SAMPLES, (folder / STUDY_FILE).is_file()
    blocks: list[Block] = [Heading(1, study.title)]
    blocks += [Text(study.description)] if study.description.strip() else []
    blocks.append(Text(_what_was_run(study, rows)))
    if study.pictures and samples.is_file():
        blocks.append(Figure(SAMPLES, 'Images of the tests', samples))
    if study.discussion.strip():
        blocks += [Heading(2, 'What holds, and what does not'), Text(study.discussion)]
    several = len(study.data) > 1 or len(study.models) > 1  # Though one may have run yet.
    for group in groups:
        blocks += _group(group, several)
    blocks += _unfinished(rows)
    blocks += [Heading(2, 'What was trained'), Text(describe_settings(study, linked, _sizes(rows)))]
    blocks += [Heading(2, 'How it was measured'), Text(_protocols(study, measured))]
    blocks.append(
        Text(
            f'Raw figures of every run are in `{RESULTS}`, all differences with their p-values in `tests.csv`; '
            '`timm-debias study` wrote this page from them.'
        )
    )
    return blocks


def _what_was_run(study: Study, rows: Sequence[Row]) -> str:
    finished = [row for row in rows if row.status == 'finished']
    axes = [counted(len(study.methods), 'method')]
    axes += [counted(len(study.models), 'architecture')] if len(study.models) > 1 else []
    axes += [counted(len(study.data), 'data set')] if study.data else []
    axes += [counted(len(study.seeds), 'seed')]
    return (
        f'{len(finished)} of {len(rows)} runs finished: {", ".join(axes)}. Figures are in '
        "percent, mean ± half of the 95 % interval of Student's t over seeds; the test images are the same in all "
        'runs that are compared, and the intervals say nothing on how results vary with them. ↑: higher is better, ↓: '
        'lower.'
    )


def _group(group: Group, several: bool) -> list[Block]:
    study = group.study
    level = 2
    blocks: list[Block] = []
    if several:
        blocks.append(Heading(level, group.title))
        level = 3
    cost = Cost.of(group)
    blocks += [Heading(level, 'Figures'), _means(group, cost), Text(_below_means(group, cost))]
    for baseline in study.baselines:
        differences = group.differences(baseline)
        if differences:
            blocks += [Heading(level, f'Difference to {group.label(baseline)}'), _differences(group, differences)]
            blocks.append(Text(_verdicts(group, differences)))
    for table in _corruptions(group):
        blocks += [Heading(level, 'Error by corruption'), table]
    for table in _classes(group):
        blocks += [Heading(level, 'Shape bias by class'), table]
    drawings = draw_group(group)
    return [*blocks, Heading(level, 'Drawings'), *drawings] if drawings else blocks


def _mean(found: Estimate | None) -> str:
    if found is None:
        return '–'
    return f'{found.mean:.1f}' + ('' if found.half_width is None else f' ± {found.half_width:.1f}')


def _means(group: Group, cost: Cost) -> Table:
    measures = group.study.measures
    head = ['method', 'seeds', *(measure.label + ARROWS[measure.better] for measure in measures), cost.title]
    rows = []
    for method in group.methods:
        cells = [_mean(group.mean(method, measure.column)) for measure in measures]
        rows.append([group.label(method), str(len(group.runs[method])), *cells, cost.median(group, method)])
    return Table(head, rows)


def _below_means(group: Group, cost: Cost) -> str:
    """Return what must be known to read the table of means."""
    baseline = group.study.baselines[0]
    words = [cost.caveat]
    if any(measure.column == MCE for measure in group.study.measures):
        if not group.pooled:
            words.append(describe_mce(group.label(baseline), reference_errors(baseline, group.runs)))
        elif MCE in group.columns:
            words.append('mCE is the mean of the mCE of the data sets.')
        else:
            words.append('No mCE (–), for not every data set has one; their sections say why.')
    means = [group.mean(method, measure.column) for method in group.methods for measure in group.study.measures]
    return ' '.join([*words, *_without_interval([found for found in means if found is not None])])


def _without_interval(estimates: Sequence[Estimate]) -> list[str]:
    """Return a sentence on means without interval, for what looks certain may be chance; none where all have one."""
    if not any(found.half_width is None and found.count > 1 for found in estimates):
        return []
    or_one = ', or of one seed alone' if any(found.count == 1 for found in estimates) else ''
    return [f'Without ±: the same in all seeds{or_one}, which gives no interval and no p.']


def _differences(group: Group, differences: Sequence[Difference]) -> Table:
    measures = group.study.measures
    rows = []
    for method in dict.fromkeys(item.method for item in differences):
        cells = []
        for measure in measures:
            item = next((item for item in differences if (item.method, item.measure) == (method, measure)), None)
            cells.append('–' if item is None else _marked(item))
        rows.append([group.label(method), *cells])
    return Table(['method', *(measure.label for measure in measures)], rows)


def _marked(item: Difference) -> str:
    words = f'**{format_points(item)}**' if item.points.excludes_zero else format_points(item)
    return words + (' †' if item.p_holm is not None and item.p_holm < SIGNIFICANT else '')


def _verdicts(group: Group, differences: Sequence[Difference]) -> str:
    """Return a sentence for each method, from the intervals alone."""
    head = [
        'Points, paired by seed. **Bold**: the 95 % interval excludes 0; all others are undecided. †: p of the paired '
        f"t-test below {SIGNIFICANT} after Holm's correction for all cells of this table in which a direction is "
        'better.'
    ]
    lines = [' '.join(head + _without_interval([item.points for item in differences])), '']
    for method in dict.fromkeys(item.method for item in differences):
        found = []
        for verdict in ('better', 'worse', 'undecided'):
            labels = [item.measure.label for item in differences if (item.method, item.verdict) == (method, verdict)]
            found += [f'{verdict}: {", ".join(labels)}'] if labels else []
        if found:
            lines.append(f'- {group.label(method)}. {"; ".join(found)}.')
    return '\n'.join(lines)


def _corruptions(group: Group) -> list[Table]:
    tables = []
    for benchmark in CORRUPTED:
        rows = []
        for corruption, severities in corruption_columns(group.columns, benchmark).items():
            cells = []
            for method in group.methods:
                errors = [found.mean for column in severities.values() if (found := group.mean(method, column))]
                cells.append(f'{statistics.fmean(errors):.1f}' if errors else '–')
            rows.append([corruption.replace('_', ' '), *cells])
        if rows:
            head = [f'{benchmark}, mean over severities and seeds', *(group.label(method) for method in group.methods)]
            tables.append(Table(head, rows))
    return tables


def _classes(group: Group) -> list[Table]:
    tables = []
    for conflict, columns in class_columns(group).items():
        rows = []
        for name, cues in columns.items():
            cells = []
            for method in group.methods:
                shape, texture = (found.mean if (found := group.mean(method, cue)) else 0.0 for cue in cues)
                cells.append(f'{100 * shape / (shape + texture):.1f}' if shape + texture else '–')
            rows.append([name, *cells])
        head = [f'{conflict}, all seeds together', *(group.label(method) for method in group.methods)]
        tables.append(Table(head, rows))
    return tables


def _unfinished(rows: Sequence[Row]) -> list[Block]:
    lines = []
    seeds: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.error:
            lines.append(f'- {row.name}: {row.status}, {row.error}')
        elif row.status != 'finished':
            name, _, seed = row.name.rpartition('.')
            seeds.setdefault((name, row.status), []).append(seed)
    lines += [f'- {name}: {status}, seeds {", ".join(found)}' for (name, status), found in seeds.items()]
    return [Heading(2, 'Runs without results'), Text('\n'.join(lines))] if lines else []


def _sizes(rows: Sequence[Row]) -> dict[str, set[float]]:
    """Return the millions of parameters that the finished runs of each architecture have."""
    sizes: dict[str, set[float]] = {}
    for row in rows:
        figures = row.figures or {}
        if PARAMETERS in figures:
            sizes.setdefault(row.model, set()).add(figures[PARAMETERS])
    return sizes


def _protocols(study: Study, measured: Mapping[str, Any]) -> str:
    """Return protocols and files of each benchmark; groups that were measured alike share a line."""
    checkpoint = {CHECKPOINTS['last']: 'of the last epoch', CHECKPOINTS['best']: 'with the best validation accuracy'}
    lines = [
        f'Measured are the weights {checkpoint[study.checkpoint]}, once. Files: the first digits of a SHA-256 over '
        'paths and sizes of the images.',
        '',
    ]
    alike: dict[str, list[str]] = {}
    for entry in measured['benchmarks']:
        words = '; '.join([entry['protocol'], *entry['notes']])
        skipped = f', {entry["skipped"]} unreadable ones skipped' if entry['skipped'] else ''
        where = f'{entry["images"]:,} images{skipped}, files {entry["fingerprint"][:12]}'
        line = f'- {entry["benchmark"]}: {words}; {where}.'
        alike.setdefault(line, []).append(', '.join(filter(None, [entry['data'], entry['model']])))
    for line, names in alike.items():
        several = len(alike) > len({entry['benchmark'] for entry in measured['benchmarks']})
        lines.append(f'{line} ({"; ".join(names)})' if several and any(names) else line)
    for versions in measured['versions']:
        lines.append(f'- Versions: {", ".join(f"{name} {version}" for name, version in versions.items())}.')
    return '\n'.join(lines)
