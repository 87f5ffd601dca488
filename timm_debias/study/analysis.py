"""What the runs of one data set and architecture say: means over seeds, and differences between methods."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from timm.utils import natural_key

from ..errors import DebiasError, did_you_mean
from ..escaping import csv_cell
from .collect import Row, corruption_columns
from .config import POOLED, Measure, Study
from .mce import BENCHMARK, MCE, with_mce
from .statistics import Estimate, estimate, holm, paired_p

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Difference:
    """A method less a baseline in one measure, paired by seed."""

    method: str
    baseline: str
    measure: Measure
    points: Estimate
    p: float | None
    p_holm: float | None = None

    @property
    def verdict(self) -> str:
        """'better', 'worse' or 'undecided', by the 95 % interval; '' for one seed, or where neither direction is."""
        if self.measure.better == 'none' or self.points.count == 1:
            return ''
        if not self.points.excludes_zero:
            return 'undecided'
        return 'better' if (self.points.mean > 0) == (self.measure.better == 'higher') else 'worse'


@dataclass(frozen=True)
class Group:
    """The finished runs of one data set and architecture."""

    study: Study
    data: str
    model: str
    runs: Mapping[str, Mapping[int, Mapping[str, float]]] = field(repr=False)
    """Figures by method and seed."""

    pooled: tuple[str, ...] = ()
    """Data sets that this is the mean of."""

    @property
    def title(self) -> str:
        """What to call it; empty where the study has one data set and one architecture."""
        data = [self.study.data[key].label for key in self.pooled or (self.data,) if key]
        model = [self.study.models[self.model].label] if self.model else []
        return ', '.join([*(['Mean over ' + ', '.join(data)] if self.pooled else data), *model])

    @property
    def name(self) -> str:
        """What its files are called; empty where the study has one data set and one architecture."""
        return '.'.join(filter(None, [POOLED if self.pooled else self.data, self.model]))

    @property
    def methods(self) -> list[str]:
        """Methods with runs, in the order of the study."""
        return [method for method in self.study.methods if self.runs.get(method)]

    @property
    def columns(self) -> list[str]:
        """Columns of which at least one run has a figure."""
        names = {column for seeds in self.runs.values() for figures in seeds.values() for column in figures}
        return sorted(names, key=natural_key)

    def label(self, method: str) -> str:
        """Return what to call a method."""
        return self.study.methods[method].label

    def values(self, method: str, column: str) -> dict[int, float]:
        """Return the figures of a method by seed."""
        return {
            seed: figures[column]
            for seed, figures in self.runs.get(method, {}).items()
            if figures.get(column) is not None
        }

    def mean(self, method: str, column: str) -> Estimate | None:
        """Return the mean over seeds, None where there are no figures."""
        values = list(self.values(method, column).values())
        return estimate(values) if values else None

    def difference(self, method: str, baseline: str, measure: Measure) -> Difference | None:
        """Return a method less a baseline over the seeds that both have, None where there is none."""
        ours, theirs = self.values(method, measure.column), self.values(baseline, measure.column)
        points = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
        if not points:
            return None
        return Difference(method, baseline, measure, estimate(points), paired_p(points))

    def differences(self, baseline: str) -> list[Difference]:
        """Return the differences of all methods to a baseline, p-values adjusted for their number (Holm)."""
        found = [
            difference
            for method in self.methods
            if method != baseline
            for measure in self.study.measures
            if (difference := self.difference(method, baseline, measure)) is not None
        ]
        tested = [item for item in found if item.points.count > 1 and item.measure.better != 'none']
        # Seeds that all differ alike give no p, but would have been tested: they count, as the largest.
        holms = holm([1.0 if item.p is None else item.p for item in tested])
        adjusted = dict(zip(map(id, tested), holms, strict=True))
        return [item if item.p is None else replace(item, p_holm=adjusted.get(id(item))) for item in found]


def group_rows(study: Study, rows: Sequence[Row]) -> list[Group]:
    """Return the groups of a study, data sets and architectures in its order.

    Raises:
        DebiasError: a measure that no run has, or a run that lacks figures which mCE is made of.
    """
    groups = []
    for model in study.models or ['']:
        own = []
        for data in study.data or ['']:
            runs: dict[str, dict[int, Mapping[str, float]]] = {}
            for row in rows:
                if (row.data, row.model) == (data, model) and row.figures is not None and row.method in study.methods:
                    runs.setdefault(row.method, {})[row.seed] = row.figures
            group = Group(study, data, model, with_mce(study.baselines[0], runs))
            own += [group] if group.methods else []
        pooled = [_pooled(own)] if len(own) > 1 else []
        groups += [*(group for group in pooled if group.methods), *own]
    known = {column for group in groups for column in group.columns}
    if corruption_columns(known, BENCHMARK):
        known.add(MCE)  # Where it is not defined, the report says why.
    for measure in study.measures:
        if known and measure.column not in known:
            raise DebiasError(
                f"measures: {measure.label}: no run has '{measure.column}'. {did_you_mean(measure.column, known)}"
            )
    return groups


def _pooled(groups: Sequence[Group]) -> Group:
    """Return the mean over data sets, of the seeds and figures that all of them have."""
    runs: dict[str, dict[int, Mapping[str, float]]] = {}
    first = groups[0]
    for method in first.study.methods:
        everywhere = [group.runs.get(method, {}) for group in groups]
        for seed in sorted(set.intersection(*(set(seeds) for seeds in everywhere))):
            figures = [seeds[seed] for seeds in everywhere]
            columns = [column for column in figures[0] if all(column in other for other in figures)]
            runs.setdefault(method, {})[seed] = {
                column: statistics.fmean(other[column] for other in figures) for column in columns
            }
    return Group(first.study, '', first.model, runs, pooled=tuple(group.data for group in groups))


def format_tests(groups: Sequence[Group]) -> str:
    """Return tests.csv: a line for each difference, with its interval and p-values."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    head = ('data', 'model', 'method', 'baseline', 'measure', 'seeds', 'difference', 'low', 'high', 'p', 'p_holm')
    writer.writerow([*head, 'verdict'])
    for group in groups:
        for baseline in group.study.baselines:
            for item in group.differences(baseline):
                points = item.points
                ends = ['', ''] if points.half_width is None else [f'{end:.4f}' for end in (points.low, points.high)]
                tests = ['' if p is None else f'{p:.3g}' for p in (item.p, item.p_holm)]
                names = [
                    POOLED if group.pooled else group.data,
                    group.model,
                    item.method,
                    item.baseline,
                    item.measure.label,
                ]
                cells = [*map(csv_cell, names), points.count, f'{points.mean:.4f}', *ends, *tests, item.verdict]
                writer.writerow(cells)
    return file.getvalue()
