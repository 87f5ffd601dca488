"""The drawings of a study's report."""

import re
import statistics
from collections.abc import Callable, Mapping

from ..report import plots
from ..report.svg import (
    Axis,
    document,
    dot,
    key,
    key_size,
    line,
    look,
    standalone,
    text,
    ticks,
    widened,
    width_of,
)
from .analysis import Difference, Group
from .blocks import Figure
from .collect import CORRUPTED, corruption_columns
from .statistics import estimate

_ROW = 18
ARROWS = {'higher': ' ↑', 'lower': ' ↓', 'none': ''}
"""What follows a measure's label, by the direction that is better."""


def draw_group(group: Group) -> list[Figure]:
    """Return the drawings of a group, those for which there are figures."""
    drawings: list[tuple[str, str, str]] = []
    for baseline in group.study.baselines:
        differences = group.differences(baseline)
        if differences:
            title = f'Difference to {group.label(baseline)}, points'
            drawings.append((f'differences-{baseline}', title, _differences(group, title, differences)))
    drawings += [(f'severities-{name}', f'Error by severity, {name}', drawing) for name, drawing in _severities(group)]
    drawings += [(f'{attack}', f'Accuracy under {attack}', drawing) for attack, drawing in _attacks(group)]
    drawings += [(f'bias-{conflict}', 'Shape bias by class', drawing) for conflict, drawing in _biases(group)]
    return [
        Figure(f'{".".join(filter(None, [group.name, kind]))}.svg', title, standalone(drawing))
        for kind, title, drawing in drawings
    ]


def _differences(group: Group, title: str, differences: list[Difference]) -> str:
    """Return the drawing of differences with their intervals: a row for each measure, a mark for each method."""
    measures = [measure for measure in group.study.measures if any(item.measure == measure for item in differences)]
    methods = [method for method in group.methods if any(item.method == method for item in differences)]
    height = _ROW * len(methods) * 0.6 + 10
    bottom = 40 + height * len(measures)
    names = [measure.label + ARROWS[measure.better] for measure in measures]
    left = max(190, 16 + width_of(names))
    ends = [value for item in differences for value in (item.points.low, item.points.high)]
    axis = Axis(title, *widened([0.0, *ends]), left, left + 370)
    parts = [text(left + 185, 20, title, kind='title')]
    for value in ticks(axis.low, axis.high):
        parts.append(line((axis.at(value), 34), (axis.at(value), bottom), 'axis' if value == 0 else 'grid'))
        parts.append(text(axis.at(value), bottom + 16, f'{value:g}'))
    looks = {method: look(group.methods.index(method)) for method in methods}
    for row, measure in enumerate(measures):
        top = 40 + height * row
        parts.append(text(left - 8, top + height / 2 + 4, names[row], 'end'))
        parts.append(line((left, top + height), (left + 370, top + height), 'grid'))
        for item in differences:
            if item.measure == measure:
                y = top + 5 + _ROW * 0.6 * (methods.index(item.method) + 0.5)
                drawn = looks[item.method]
                parts.append(
                    line((axis.at(item.points.low), y), (axis.at(item.points.high), y), 'interval', drawn.colour)
                )
                words = f'{group.label(item.method)}, {measure.label}: {format_points(item)}'
                parts.append(dot(axis.at(item.points.mean), y, drawn, words))
    entries = [(looks[method], group.label(method)) for method in methods]
    parts += key(entries, left + 390, 50)
    key_width, key_height = key_size(entries)
    return document(left + 390 + key_width, max(round(bottom + 24), 50 + key_height), title, parts)


def format_points(item: Difference) -> str:
    """Return a difference and half of its interval, in points."""
    half = item.points.half_width
    return f'{item.points.mean:+.1f}' + ('' if half is None else f' ± {half:.1f}')


def _curves(
    group: Group, columns: Mapping[float, list[str]], value: Callable[[list[float]], float]
) -> list[tuple[plots.Look, str, plots.Points]]:
    """Return a curve for each method: at each place, the mean over seeds of `value` of the columns, with interval."""
    series = []
    for number, method in enumerate(group.methods):
        points = {}
        for place, names in columns.items():
            seeds = [figures for figures in group.runs[method].values() if all(name in figures for name in names)]
            if seeds:
                found = estimate([value([figures[name] for name in names]) for figures in seeds])
                points[place] = plots.Figure(found.mean, max(found.low, 0.0), min(found.high, 100.0))
        series.append((look(number), group.label(method), points))
    return series


def _severities(group: Group) -> list[tuple[str, str]]:
    drawings = []
    for benchmark in CORRUPTED:
        corruptions = corruption_columns(group.columns, benchmark)
        columns: dict[float, list[str]] = {}
        for severities in corruptions.values():
            for severity, column in severities.items():
                columns.setdefault(severity, []).append(column)
        if columns:
            title = f'{benchmark}, mean of {len(corruptions)} corruptions'
            series = _curves(group, columns, statistics.fmean)
            if any(points for _, _, points in series):
                chart = plots.chart(title, 'severity', 'error, %', series, sorted(columns), with_key=True)
                drawings.append((benchmark, chart))
    return drawings


def _attacks(group: Group) -> list[tuple[str, str]]:
    attacks: dict[str, dict[float, list[str]]] = {}
    for column in group.columns:
        if match := re.fullmatch(r'(.+)_top1_eps(\d+(?:\.\d+)?)', column):
            attacks.setdefault(match[1], {})[float(match[2])] = [column]
    drawings = []
    for attack, columns in attacks.items():
        if len(columns) > 1:
            series = _curves(group, columns, statistics.fmean)
            drawings.append((attack, plots.chart(attack, 'epsilon, 1/255', 'top-1, %', series, with_key=True)))
    return drawings


def class_columns(group: Group) -> dict[str, dict[str, tuple[str, str]]]:
    """Return, for each benchmark of conflict images, the columns of shape and texture decisions of each class."""
    columns: dict[str, dict[str, tuple[str, str]]] = {}
    for column in group.columns:
        if match := re.fullmatch(r'([^/]+)/([^/]+)/shape', column):
            conflict, name = match.groups()
            columns.setdefault(conflict, {})[name] = (column, f'{conflict}/{name}/texture')
    return columns


def _biases(group: Group) -> list[tuple[str, str]]:
    drawings = []
    for conflict, columns in class_columns(group).items():
        series = []
        for number, method in enumerate(group.methods):
            decisions = {
                name: (_rounded(group, method, cues[0]), _rounded(group, method, cues[1]))
                for name, cues in columns.items()
            }
            bias = group.mean(method, f'{conflict}_shape_bias')
            series.append((look(number), group.label(method), bias.mean if bias else None, decisions))
        drawings.append((conflict, plots.draw_shape_bias(list(columns), series, {}, with_key=True)))
    return drawings


def _rounded(group: Group, method: str, column: str) -> float:
    found = group.mean(method, column)
    return round(found.mean, 1) if found else 0.0
