"""What stylising costs beside a training step."""

from collections.abc import Mapping

import torch

from ..stylizers import Stylizer
from .size import IMG_SIZE
from .steps import PlainModel, Setup, stylise_call
from .timing import ratio_of, summary, time_in_turns


def time_stylizers(
    stylizers: Mapping[str, Stylizer], batch_size: int = 8, repeats: int = 5, model: str = 'resnet50'
) -> dict[str, dict[str, float]]:
    """Time each stylizer and a plain training step on as many images, in turns, on the CPU.

    Returns:
        For each stylizer `ms`, the median over repeats in milliseconds an image, and of its time divided by that of the
        step of the same turn `ratio`, the median, and `low` and `high`, the quartiles.
    """
    setup = Setup(model, IMG_SIZE, batch_size, torch.device('cpu'))
    calls = {name: stylise_call(setup, stylizer) for name, stylizer in stylizers.items()}
    seconds = time_in_turns({'': PlainModel(setup).step(batch_size), **calls}, repeats)
    found = {}
    for name in stylizers:
        ratio = ratio_of(seconds[name], seconds[''])
        ms = 1000 * summary(seconds[name]).median / batch_size
        found[name] = {'ms': ms, 'ratio': ratio.median, 'low': ratio.low, 'high': ratio.high}
    return found
