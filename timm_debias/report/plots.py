"""The plots of a report; each is HTML, or empty where no model has the results that it shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ..metrics import ALEXNET_ERRORS, EXTRA_CORRUPTIONS, SEVERITIES
from ..validation.tables import interval_of
from .published import PUBLISHED, bounds
from .runs import Run
from .svg import (
    GREY,
    Axis,
    Look,
    curve,
    document,
    dot,
    frame,
    key,
    key_size,
    legend,
    letter,
    line,
    text,
    ticks,
    widened,
    width_of,
)

_ROW = 26


@dataclass(frozen=True)
class Figure:
    """A value in percent, and how sure it is."""

    value: float
    low: float
    high: float

    @classmethod
    def measured(cls, value: float, interval: Sequence[float] | None) -> 'Figure':
        """Return a figure with its interval, where it has one."""
        return cls(value, *(interval or (value, value)))

    @classmethod
    def published(cls, figure: str) -> 'Figure':
        """Return a printed figure: between the sources where they differ."""
        low, high = bounds(figure)
        return cls((low + high) / 2, low, high)


Points = dict[float, Figure]
"""Values of y by x."""


def accuracy_against_mce(runs: Sequence[Run], with_published: bool) -> str:
    """Return the plot of accuracy on ImageNet against mCE."""
    points: list[tuple[Look, str, Figure, Figure]] = []
    for run in runs:
        imagenet, corrupted = run.entry('imagenet'), run.entry('imagenet-c')
        if imagenet and corrupted and corrupted['metrics']['mce'] is not None:
            accuracy = Figure.measured(imagenet['metrics']['top1'], interval_of(imagenet, 'top1'))
            mce = Figure.measured(corrupted['metrics']['mce'], None)
            points.append((run.look, run.marked('imagenet', 'imagenet-c'), accuracy, mce))
    if not points:
        return ''
    for number, row in enumerate(PUBLISHED if with_published else ()):
        x, y = (Figure.published(row.figures[key]) for key in (('imagenet', 'top1'), ('imagenet-c', 'mce')))
        points.append((letter(number), f'{row.name}, published', x, y))
    x_range = widened([value for _, _, x, _ in points for value in (x.low, x.high)])
    y_range = widened([value for _, _, _, y in points for value in (y.low, y.high)])
    x_axis = Axis('top-1 accuracy on ImageNet, %', *x_range, 60, 620)
    y_axis = Axis('mCE on ImageNet-C, % (lower is better)', *y_range, 370, 20)
    parts = frame('', x_axis, y_axis)
    for drawn, words, x, y in points:
        left, right = x_axis.at(x.low), x_axis.at(x.high)
        parts.append(line((left, y_axis.at(y.value)), (right, y_axis.at(y.value)), 'interval', drawn.colour))
        parts.append(_upright(x_axis.at(x.value), y_axis, y, drawn.colour))
        values = f'{words}: {x.value:.2f} %, mCE {y.value:.2f} %'
        parts.append(dot(x_axis.at(x.value), y_axis.at(y.value), drawn, values))
    words = 'Lines are Wilson 95 % intervals of the accuracy.'
    if with_published:
        words += ' Grey letters were measured by others; their lines show where sources differ.'
    marks = legend([(drawn, words) for drawn, words, _, _ in points])
    return _section('Accuracy and corruptions', words, marks + document(640, 420, 'Accuracy against mCE', parts))


def shape_bias_by_category(runs: Sequence[Run], with_published: bool) -> str:
    """Return the plots of shape against texture decisions for each category, one for each benchmark of such images.

    Shape is on the left, a dot is a model and category, and a dashed line all categories of a model.
    """
    return ''.join(_shape_bias(runs, name, with_published) for name in _benchmarks_with(runs, 'categories'))


def _shape_bias(runs: Sequence[Run], benchmark: str, with_published: bool) -> str:
    shown = [(run, entry['metrics']) for run in runs if (entry := run.entry(benchmark))]
    series = [
        (
            run.look,
            run.label,
            metrics.get('shape_bias'),
            {name: (row['shape'], row['texture']) for name, row in metrics['categories'].items()},
        )
        for run, metrics in shown
    ]
    published = shown[0][1].get('published_shape_bias', {}) if with_published else {}
    # Benchmarks of one's own are not of the same classes for all models.
    categories = dict.fromkeys(category for _, metrics in shown for category in metrics['categories'])
    drawing = draw_shape_bias(list(categories), series, published)
    words = (
        'Of the images that were decided by shape or by texture; a dashed line is all categories of a model together.'
    )
    marks = legend([(run.look, run.marked(benchmark)) for run, _ in shown])
    return _section(f'Shape bias on {benchmark}', words, marks + drawing)


def draw_shape_bias(
    categories: Sequence[str],
    series: Sequence[tuple[Look, str, float | None, Mapping[str, tuple[float, float]]]],
    published: Mapping[str, float],
    with_key: bool = False,
) -> str:
    """Return the drawing of shape against texture decisions by category, as Geirhos et al. (ICLR 2019) show them.

    Args:
        categories: In the order of the rows.
        series: Look, name, shape bias of all categories in percent, and decisions by shape and by texture of each.
        published: Shape bias of others in percent, by name.
        with_key: Name the series beside the drawing.
    """
    high = max(_ROW, 5 * len(series))  # Marks of many models need room.
    bottom = 60 + high * len(categories)
    left = max(100, 8 + width_of(categories))
    shape = Axis('fraction of shape decisions', 1, 0, left, left + 520)
    parts = []
    for value in ticks(0, 1):
        parts.append(line((shape.at(value), 60), (shape.at(value), bottom), 'grid'))
        parts.append(text(shape.at(value), bottom + 16, f'{value:g}'))
        parts.append(text(shape.at(1 - value), 50, f'{value:g}'))
    parts.append(text(left + 260, bottom + 54, shape.label))
    parts.append(text(left + 260, 30, 'fraction of texture decisions'))
    for row, category in enumerate(categories):
        top = 60 + high * row
        parts.append(line((left, top), (left + 520, top), 'grid'))
        parts.append(text(left - 8, top + high / 2 + 4, category, 'end'))
    for drawn, _, bias, _ in series:
        if bias is not None:
            all_of_them = shape.at(bias / 100)
            parts.append(line((all_of_them, 60), (all_of_them, bottom), 'mean', drawn.colour))
    for number, (drawn, name, _, decisions) in enumerate(series):
        aside = (number + 1) / (len(series) + 1) - 0.5  # Models with one bias are not drawn on top of each other.
        for row, category in enumerate(categories):
            by_shape, by_texture = decisions.get(category, (0, 0))
            if by_shape + by_texture:
                words = f'{name}, {category}: {by_shape:g} by shape, {by_texture:g} by texture'
                height = 60 + high * (row + 0.5 + 0.7 * aside)
                parts.append(dot(shape.at(by_shape / (by_shape + by_texture)), height, drawn, words))
    for name, bias in published.items():
        parts.append(line((shape.at(bias / 100), 60), (shape.at(bias / 100), bottom), 'mean', GREY))
        parts.append(text(shape.at(bias / 100), bottom + 34, f'{name}, published'))
    width, height = left + 540, bottom + 66
    if with_key:
        entries = [(drawn, name) for drawn, name, _, _ in series]
        parts += key(entries, width, 70)
        key_width, key_height = key_size(entries)
        width, height = width + key_width, max(height, 70 + key_height)
    return document(width, height, 'Shape and texture decisions by category', parts)


def severity_curves(runs: Sequence[Run]) -> str:
    """Return the plots of error against severity for each benchmark of corruptions: mean of the 15, then each one."""
    return ''.join(_severity_curves(runs, name) for name in _benchmarks_with(runs, 'errors'))


def _severity_curves(runs: Sequence[Run], benchmark: str) -> str:
    shown = [(run, entry['metrics']['errors']) for run in runs if (entry := run.entry(benchmark))]
    charts = []
    means = [(run.look, run.label, _mean_errors(errors)) for run, errors in shown]
    if any(points for _, _, points in means):
        charts.append(chart('mean of the 15', 'severity', 'error, %', means, SEVERITIES))
    for corruption in (*ALEXNET_ERRORS, *EXTRA_CORRUPTIONS):
        series = [(run.look, run.label, _errors(errors.get(corruption, {}))) for run, errors in shown]
        if any(points for _, _, points in series):
            title = corruption.replace('_', ' ') + ('' if corruption in ALEXNET_ERRORS else ' (extra)')
            charts.append(chart(title, 'severity', 'error, %', series, SEVERITIES))
    marks = legend([(run.look, run.marked(benchmark)) for run, _ in shown])
    words = 'Upright lines are Wilson 95 % intervals. Extra corruptions are not part of mCE.'
    return _section(f'Error on {benchmark} by severity', words, marks + ''.join(charts))


def epsilon_curves(runs: Sequence[Run]) -> str:
    """Return the plots of accuracy under each attack against epsilon."""
    attacks = _benchmarks_with(runs, 'curve')
    attacked = [run for run in runs if any(run.entry(attack) for attack in attacks)]
    if not attacked:
        return ''
    charts = []
    for attack in attacks:
        series = [(run.look, run.label, _accuracies(entry)) for run in attacked if (entry := run.entry(attack))]
        if any(points for _, _, points in series):
            charts.append(chart(attack, 'epsilon, 1/255', 'top-1, %', series))
    marks = legend([(run.look, run.marked(*attacks)) for run in attacked])
    words = (
        "Top-1 accuracy under attack, on ImageNet or, where the name begins with folder, on images of one's own. "
        'Upright lines are Wilson 95 % intervals. An attack that fails proves no robustness.'
    )
    return _section('Attacks', words, marks + ''.join(charts))


def _benchmarks_with(runs: Sequence[Run], metric: str) -> list[str]:
    """Return the names of the measured benchmarks that have a metric."""
    return sorted(
        {name for run in runs for name, entry in run.results['benchmarks'].items() if metric in entry['metrics']}
    )


def _errors(row: dict[str, Any]) -> Points:
    return {
        severity: Figure.measured(row[str(severity)]['error'], row[str(severity)]['error_interval'])
        for severity in SEVERITIES
        if str(severity) in row
    }


def _mean_errors(errors: dict[str, dict[str, Any]]) -> Points:
    """Return the mean over the 15 corruptions at each severity; nothing where one is missing."""
    rows = [_errors(errors.get(corruption, {})) for corruption in ALEXNET_ERRORS]
    return {
        severity: Figure.measured(sum(row[severity].value for row in rows) / len(rows), None)
        for severity in SEVERITIES
        if all(severity in row for row in rows)
    }


def _accuracies(entry: Any) -> Points:
    curve = sorted(entry['metrics']['curve'], key=lambda point: point['epsilon'])
    return {point['epsilon']: Figure.measured(point['top1'], point['top1_interval']) for point in curve}


def chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[tuple[Look, str, Points]],
    x_ticks: Sequence[float] | None = None,
    with_key: bool = False,
) -> str:
    """Return a drawing of curves; values of y are percent. With a key, it names the series beside them."""
    x_axis = Axis(x_label, *widened([value for _, _, points in series for value in points]), 52, 280)
    y_axis = Axis(y_label, 0, 100, 190, 30)
    parts = frame(title, x_axis, y_axis, x_ticks)
    for drawn, _, points in series:
        parts.append(curve([(x_axis.at(x), y_axis.at(y.value)) for x, y in points.items()], drawn.colour))
    for drawn, words, points in series:
        for x, y in points.items():
            parts.append(_upright(x_axis.at(x), y_axis, y, drawn.colour))
            parts.append(dot(x_axis.at(x), y_axis.at(y.value), drawn, f'{words}, {x:g}: {y.value:.2f} %'))
    if not with_key:
        return document(300, 235, title, parts)
    entries = [(drawn, words) for drawn, words, _ in series]
    parts += key(entries, 310, 40)
    key_width, key_height = key_size(entries)
    return document(310 + key_width, max(235, 40 + key_height), title, parts)


def _upright(x: float, axis: Axis, figure: Figure, colour: str) -> str:
    return line((x, axis.at(figure.low)), (x, axis.at(figure.high)), 'interval', colour)


def _section(title: str, words: str, content: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p>{escape(words)}</p>{content}</section>'
