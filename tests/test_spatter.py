"""Spatter against its colours, and against distances of all pairs of pixels."""

import numpy as np
import pytest
from corruption_pictures import grey, levels, rng

from timm_debias.corruptions import corrupt, spatter


@pytest.mark.parametrize(('severity', 'strength'), levels(0.6, 0.6, 0.5))
def test_water_is_pale_turquoise_and_only_adds(severity, strength, photo):
    result = corrupt(grey(0, 224), 'spatter', severity, rng())
    assert result.max((0, 1)) == pytest.approx(strength * np.array([175, 238, 238]), abs=1)
    assert 0.005 < (result > 0).any(2).mean() < 0.3
    assert (corrupt(photo, 'spatter', severity, rng()) >= photo).all()


@pytest.mark.parametrize('severity', [4, 5])
def test_mud_covers(severity):
    result = corrupt(grey(1, 224), 'spatter', severity, rng())
    assert result.min((0, 1)).tolist() == [63, 42, 20]
    assert 0.01 < (result != 255).any(2).mean() < 0.5


def test_distance_against_all_pairs():
    outline = rng().random((40, 50)) < 0.002
    outline[3, 4] = True
    y, x = np.nonzero(outline)
    rows, columns = np.mgrid[:40, :50]
    expected = np.hypot(rows[..., None] - y, columns[..., None] - x).min(2)
    found = spatter._distance(outline)
    assert np.minimum(found, 20) == pytest.approx(np.minimum(expected, 20))


def test_outline():
    wet = np.zeros((7, 7), dtype=bool)
    wet[1:6, 1:6] = True
    expected = wet.copy()
    expected[2:5, 2:5] = False
    assert (spatter._outline(wet) == expected).all()
