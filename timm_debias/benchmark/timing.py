"""Timing things beside each other: in turns, so that whatever slows the machine down slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch


class Ratio(NamedTuple):
    """A ratio over the turns of a measurement: its median and its quartiles."""

    median: float
    low: float
    high: float


def time_in_turns(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device | None = None,
) -> dict[str, list[float]]:
    """Return the seconds that each call took in each turn.

    A turn makes every call once; every other turn goes through them backwards, so that none always comes first.

    Args:
        calls: What to time.
        repeats: Number of turns.
        device: Where the calls run. A CUDA device, which works on while Python goes ahead, is waited for before and
            after each measurement, which makes a call ten times in a row.
    """
    warmup, iterations = (3, 10) if device is not None and device.type == 'cuda' else (1, 1)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-warmup, repeats):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            took = _seconds(calls[name], device, iterations)
            if turn >= 0:
                seconds[name].append(took)
    return seconds


def ratio_of(seconds: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Return the ratio of two series of the same turns, each turn's seconds divided by the same turn's baseline."""
    return summary([own / base for own, base in zip(seconds, baseline, strict=True)])


def summary(values: Sequence[float]) -> Ratio:
    """Return median and quartiles of at least one value."""
    median = statistics.median(values)
    if len(values) == 1:
        return Ratio(median, median, median)
    low, _, high = statistics.quantiles(values, n=4, method='inclusive')
    return Ratio(median, low, high)


def _seconds(call: Callable[[], object], device: torch.device | None, iterations: int) -> float:
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(iterations):
        call()
    _synchronize(device)
    return (time.perf_counter() - start) / iterations


def _synchronize(device: torch.device | None) -> None:
    if device is not None and device.type == 'cuda':
        torch.cuda.synchronize(device)
