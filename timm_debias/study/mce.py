"""mCE of one's own images, with the first baseline of a study in AlexNet's place."""

import statistics
from collections.abc import Mapping

from ..errors import DebiasError
from .collect import RESULTS, corruption_columns

MCE = 'folder-c_mce'
"""mCE with the first baseline in AlexNet's place, computed from the errors by corruption and severity."""

BENCHMARK = MCE.removesuffix('_mce')
"""The benchmark whose errors it is computed from."""

SMALL = 2.0
"""Mean error of the baseline, percent, below which a corruption's part of mCE is noise: a few images decide it."""

Runs = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Figures by method and seed."""


def reference_errors(baseline: str, runs: Runs) -> dict[str, float]:
    """Return the mean error of the baseline by corruption, empty where none of its runs has errors by corruption.

    Raises:
        DebiasError: a run that lacks errors which another one has.
    """
    every = list(runs.get(baseline, {}).values())
    return {
        corruption: statistics.fmean(
            _value(figures, column, baseline, seed)
            for seed, figures in runs[baseline].items()
            for column in severities.values()
        )
        for corruption, severities in _columns(every).items()
    }


def with_mce(baseline: str, runs: Runs) -> dict[str, dict[int, Mapping[str, float]]]:
    """Return figures with `MCE`, where it is defined: mean over corruptions of the error over the baseline's mean.

    Raises:
        DebiasError: a run with errors by corruption that lacks some which the baseline has.
    """
    columns = _columns(list(runs.get(baseline, {}).values()))
    reference = reference_errors(baseline, runs)
    defined = bool(reference) and all(value > 0 for value in reference.values())
    added: dict[str, dict[int, Mapping[str, float]]] = {}
    for method, seeds in runs.items():
        for seed, figures in seeds.items():
            more = {}
            if defined and corruption_columns(figures, BENCHMARK):
                ratios = [
                    statistics.fmean(_value(figures, column, method, seed) for column in severities.values())
                    / reference[corruption]
                    for corruption, severities in columns.items()
                ]
                more = {MCE: 100 * statistics.fmean(ratios)}
            added.setdefault(method, {})[seed] = {**figures, **more}
    return added


def describe_mce(label: str, reference: Mapping[str, float]) -> str:
    """Return what mCE is relative to, and why there is none or where it is not to be trusted.

    Args:
        label: The baseline.
        reference: Its `reference_errors`.
    """
    if not reference:
        return f'No mCE (–): it is relative to {label}, of which no run with errors by corruption is finished.'
    words = f'mCE is 100 times the mean over corruptions of the error over the mean error of {label}'
    none = [_plain(name) for name, value in reference.items() if value == 0]
    if none:
        return f'{words}. There is none (–): {label} makes no error under {", ".join(none)}.'
    small = [f'{_plain(name)} ({value:.1f} %)' for name, value in reference.items() if value < SMALL]
    if not small:
        return f'{words}.'
    return (
        f'{words}, which is below {SMALL:g} % for {", ".join(small)}: there a few images move mCE much, and the mean '
        'error by corruption says more.'
    )


def _columns(every: list[Mapping[str, float]]) -> dict[str, dict[int, str]]:
    return corruption_columns(dict.fromkeys(name for figures in every for name in figures), BENCHMARK)


def _value(figures: Mapping[str, float], column: str, method: str, seed: int) -> float:
    if column not in figures:
        raise DebiasError(
            f"{RESULTS}: {method}, seed {seed}: no figure in '{column}', which other runs have; measure it again, or "
            'take the line out'
        )
    return figures[column]


def _plain(corruption: str) -> str:
    return corruption.replace('_', ' ')
