"""Axes, ticks and marks of the drawings."""

import pytest

from timm_debias.report.svg import Axis, look, ticks, widened


def test_axis():
    axis = Axis('', 10, 20, 300, 100)
    assert [axis.at(value) for value in (10, 15, 20)] == [300, 200, 100]


@pytest.mark.parametrize(
    ('low', 'high', 'expected'),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (0.5, 5.5, [1, 2, 3, 4, 5]), (52.3, 78.1, [55, 60, 65, 70, 75])],
)
def test_ticks(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize('low', [-3, 0, 76.13])
@pytest.mark.parametrize('width', [1, 0.03, 7, 33.3, 255])
def test_ticks_are_few_and_inside(low, width):
    values = ticks(low, low + width)
    assert 2 <= len(values) <= 6
    assert all(low - 1e-9 <= value <= low + width + 1e-9 for value in values)


def test_one_value_has_a_range():
    low, high = widened([4.0])
    assert low < 4 < high


def test_looks_of_many_models_differ():
    assert len({look(number) for number in range(28)}) == 28
