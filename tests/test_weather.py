"""Weather against the published ranges and blends."""

import numpy as np
import pytest
from corruption_pictures import grey, levels, rng

from timm_debias.corruptions import corrupt, weather
from timm_debias.corruptions.filters import plasma
from timm_debias.corruptions.frost import draw_frost


@pytest.mark.parametrize(('severity', 'kept'), levels(0.8, 0.7, 0.7, 0.65, 0.55))
def test_snow_whitens_and_adds_flakes(severity, kept):
    result = corrupt(grey(0.2), 'snow', severity, rng()) / 255
    ground = kept * 0.2 + (1 - kept) * (1.5 * 0.2 + 0.5)
    assert result.min() == pytest.approx(ground, abs=1 / 255)
    assert result.mean() > ground + 0.01


@pytest.mark.parametrize(
    ('severity', 'kept', 'amount'), [(1, 1, 0.4), (2, 0.8, 0.6), (3, 0.7, 0.7), (4, 0.65, 0.7), (5, 0.6, 0.75)]
)
def test_frost(severity, kept, amount, photo):
    expected = np.clip(kept * photo + amount * 255 * draw_frost(96, 96, rng()), 0, 255)
    assert np.abs(corrupt(photo, 'frost', severity, rng()) - expected).max() <= 1


def test_drawn_frost_is_like_the_photographs():
    drawn = [draw_frost(224, 224, rng(seed)) for seed in range(6)]
    assert all(picture.min() >= 0 and picture.max() <= 1 for picture in drawn)
    assert 0.06 < np.mean([picture.mean(2).std() for picture in drawn]) < 0.15
    assert all(0.35 < picture.mean() < 0.85 for picture in drawn)
    red, green, blue = np.mean(drawn, axis=(0, 1, 2))
    assert red < green < blue


@pytest.mark.parametrize(
    ('severity', 'amount', 'decay'), [(1, 1.5, 2), (2, 2, 2), (3, 2.5, 1.7), (4, 2.5, 1.5), (5, 3, 1.4)]
)
def test_fog_spans_its_range(severity, amount, decay):
    result = corrupt(grey(1), 'fog', severity, rng()) / 255
    # At 128 pixels the whole plasma is seen, with its 0 and its 1.
    assert result.min() == pytest.approx(1 / (1 + amount), abs=1 / 255)
    assert result.max() == 1
    assert (weather.fog(np.ones((128, 128, 3)), rng(), amount, decay) * 255 + 1e-6).astype(np.uint8).tolist() == (
        result * 255
    ).round().astype(np.uint8).tolist()


@pytest.mark.parametrize('decay', [1.4, 2])
def test_plasma_levels(decay):
    """What a level adds to the mean of its four neighbours is decay² times smaller one level further down."""
    field = np.mean([added(plasma(256, decay, rng(seed))) for seed in range(8)], axis=0)
    assert field[0] / field[1] == pytest.approx(decay**2, rel=0.05)


def added(field: np.ndarray) -> list[float]:
    found = []
    for step in (2, 1):
        coarse = field[::step, ::step]
        corners = coarse[::2, ::2]
        mean = (corners + np.roll(corners, -1, 0) + np.roll(corners, -1, 1) + np.roll(corners, (-1, -1), (0, 1))) / 4
        found.append((coarse[1::2, 1::2] - mean).std())
    return found
