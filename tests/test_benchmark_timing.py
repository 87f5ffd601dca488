"""Timing in turns with a clock that is known."""

import pytest
import torch

from timm_debias.benchmark import stylisation, timing
from timm_debias.benchmark.timing import Ratio, ratio_of, summary, time_in_turns
from timm_debias.stylizers import create_stylizer


@pytest.fixture
def clock(monkeypatch):
    """A clock that calls move on."""
    now = [0.0]
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: now[0])

    def call(*seconds):
        steps = iter(seconds)

        def run():
            now[0] += next(steps)

        return run

    return call


def test_first_turn_warms_up_and_every_other_turn_goes_backwards(monkeypatch):
    order = []
    calls = {name: lambda name=name: order.append(name) for name in 'abc'}
    found = time_in_turns(calls, repeats=2)
    assert ''.join(order) == 'cba' + 'abc' + 'cba'
    assert {name: len(seconds) for name, seconds in found.items()} == {'a': 2, 'b': 2, 'c': 2}


def test_seconds_of_each_call(clock):
    found = time_in_turns({'a': clock(9, 1, 2), 'b': clock(8, 4, 6)}, repeats=2)
    assert found == {'a': [1, 2], 'b': [4, 6]}


def test_ratios_are_taken_within_a_turn():
    """A turn that is ten times slower for all does not show."""
    assert ratio_of([1.0, 30.0, 2.0], [1.0, 10.0, 1.0]) == Ratio(2.0, 1.5, 2.5)


@pytest.mark.parametrize(
    ('values', 'expected'), [([3.0], (3, 3, 3)), ([1.0, 2.0], (1.5, 1.25, 1.75)), ([4, 1, 3, 2, 5], (3, 2, 4))]
)
def test_median_and_quartiles(values, expected):
    assert summary(values) == expected
    at = torch.tensor([0.5, 0.25, 0.75], dtype=torch.float64)
    quantiles = torch.quantile(torch.tensor(values, dtype=torch.float64), at)
    torch.testing.assert_close(torch.tensor(summary(values), dtype=torch.float64), quantiles)


def test_stylizers_beside_a_training_step(monkeypatch):
    """Turns of (step, stylizer) seconds; the first warms up, and a slow turn slows both alike."""
    took = {'': [2.0, 20.0, 2.0], 'band_statistics': [1.0, 8.0, 1.2]}
    monkeypatch.setattr(stylisation, 'time_in_turns', lambda calls, repeats: {name: took[name] for name in calls})
    stylizers = {'band_statistics': create_stylizer('band_statistics')}
    found = stylisation.time_stylizers(stylizers, batch_size=2, repeats=3, model='test_resnet')
    expected = {'ms': 600, 'ratio': 0.5, 'low': 0.45, 'high': 0.55}
    assert found['band_statistics'] == pytest.approx(expected)
