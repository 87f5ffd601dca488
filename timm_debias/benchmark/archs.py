"""The debiased step of many timm models, and the cost model fitted to them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..checks import check_model_name
from ..errors import DebiasError
from ..markdown import table_lines
from ..stylizers import Stylizer
from ..stylizers.base import MIN_SIZE
from .cost_model import Measured, debiased_ratio, fit, leave_one_out
from .size import Size, model_size
from .steps import DebiasedModel, PlainModel, Setup, stylise_call
from .timing import Ratio, ratio_of, summary, time_in_turns

_logger = logging.getLogger(__name__)

_FIT_FROM = 3
"""Models that the cost model needs to be fitted and checked."""


class ArchResult(NamedTuple):
    """What one model costs: seconds for a clean image, and ratios to its plain step."""

    model: str
    img_size: int
    size: Size
    plain: float
    stylisation: float
    debiased: Ratio


def measure_archs(setup: Setup, archs: Sequence[str], stylizer: Stylizer, repeats: int) -> list[ArchResult]:
    """Time plain and debiased step of each model, one model after the other.

    Args:
        setup: What to measure with, but for the model.
        archs: Names of timm models, or NAME@IMG_SIZE for another size than the setup's.
        stylizer: Of the debiased steps.
        repeats: Turns.

    Raises:
        DebiasError: an unknown model, or one that does not take images of that size; nothing has been measured then.
    """
    setups = [_setup_of(setup, arch) for arch in archs]
    sizes = [model_size(one.model, one.img_size) for one in setups]
    results = []
    for one, size in zip(setups, sizes, strict=True):
        calls: dict[str, Callable[[], object]] = {
            'plain': PlainModel(one).step(one.batch_size),
            'debiased': DebiasedModel(one).step(stylizer),
            'stylisation': stylise_call(one, stylizer),
        }
        seconds = time_in_turns(calls, repeats, one.device)
        plain, stylisation = (summary(seconds[name]).median / one.batch_size for name in ('plain', 'stylisation'))
        debiased = ratio_of(seconds['debiased'], seconds['plain'])
        results.append(ArchResult(one.model, one.img_size, size, plain, stylisation, debiased))
        _logger.info(f'{one.model}: {1 / plain:.1f} images/s, debiased {debiased.median:.2f} plain steps')
    return results


def format_archs(results: Sequence[ArchResult]) -> str:
    """Return the results as a Markdown table; with predictions of the cost model from three models on."""
    rows = [arch_row(result) for result in results]
    header = ['', 'GMAC', 'M activations', 'ms an image, plain', 'debiased, plain steps', 'quartiles']
    cells = [
        [
            f'{row["model"]}, {row["img_size"]}',
            f'{row["macs"] / 1e9:.2f}',
            f'{row["activations"] / 1e6:.1f}',
            f'{1000 * row["plain"]:.1f}',
            f'{row["debiased"]:.2f}',
            f'{row["low"]:.2f} – {row["high"]:.2f}',
        ]
        for row in rows
    ]
    predictions = predict(results)
    if predictions:
        header += ['ms predicted', 'debiased predicted']
        for line, prediction in zip(cells, predictions, strict=True):
            line += [f'{1000 * prediction["plain"]:.1f}', f'{prediction["debiased"]:.2f}']
    return '\n'.join(table_lines(header, cells)) + '\n'


def arch_row(result: ArchResult) -> dict[str, Any]:
    """Return a result as entries of JSON."""
    ratio = {'debiased': result.debiased.median, 'low': result.debiased.low, 'high': result.debiased.high}
    seconds = {'plain': result.plain, 'stylisation': result.stylisation}
    return {'model': result.model, 'img_size': result.img_size, **result.size._asdict(), **seconds, **ratio}


def predict(results: Sequence[ArchResult]) -> list[Mapping[str, float]]:
    """Return for each model what the cost model says that was fitted to the others; nothing for fewer than three."""
    if len(results) < _FIT_FROM:
        return []
    seconds = leave_one_out([Measured(result.size, result.plain) for result in results])
    return [
        {'plain': plain, 'debiased': debiased_ratio(plain, result.stylisation)}
        for plain, result in zip(seconds, results, strict=True)
    ]


def fitted(results: Sequence[ArchResult]) -> dict[str, float] | None:
    """Return the coefficients of the cost model fitted to all models; None for fewer than three."""
    if len(results) < _FIT_FROM:
        return None
    return fit([Measured(result.size, result.plain) for result in results])._asdict()


def _setup_of(setup: Setup, arch: str) -> Setup:
    name, separator, size = arch.partition('@')
    check_model_name(name)
    if separator and not size.isdecimal():
        raise DebiasError(f"--archs '{arch}': expected NAME or NAME@IMG_SIZE")
    img_size = int(size) if separator else setup.img_size
    if img_size < MIN_SIZE:
        raise DebiasError(f"--archs '{arch}': stylizers need images of at least {MIN_SIZE} pixels")
    return replace(setup, model=name, img_size=img_size)
