"""Noise against moments of the published distributions."""

import numpy as np
import pytest
from corruption_pictures import grey, levels, rng

from timm_debias.corruptions import corrupt, noise


@pytest.mark.parametrize(('severity', 'std'), levels(0.08, 0.12, 0.18, 0.26, 0.38))
def test_gaussian(severity, std):
    result = corrupt(grey(0.5), 'gaussian_noise', severity, rng()) / 255
    draws = np.clip(128 / 255 + std * np.linspace(-6, 6, 100_001), 0, 1)
    weights = np.exp(-0.5 * np.linspace(-6, 6, 100_001) ** 2)
    mean = np.average(draws, weights=weights)
    assert result.std() == pytest.approx(np.sqrt(np.average((draws - mean) ** 2, weights=weights)), rel=0.02)


@pytest.mark.parametrize(('severity', 'photons'), levels(60, 25, 12, 5, 3))
def test_shot(severity, photons):
    level = 51 / 255
    result = noise.shot_noise(np.full((256, 256, 3), level), rng(), photons)
    assert result.mean() == pytest.approx(level, rel=0.01)
    assert result.var() == pytest.approx(level / photons, rel=0.03)
    clipped = corrupt(grey(0.2, 256), 'shot_noise', severity, rng()) / 255
    assert clipped.var() == pytest.approx(np.clip(result, 0, 1).var(), rel=0.03)


@pytest.mark.parametrize(('severity', 'amount'), levels(0.03, 0.06, 0.09, 0.17, 0.27))
def test_impulse(severity, amount):
    result = corrupt(grey(0.5, 256), 'impulse_noise', severity, rng())
    assert set(np.unique(result)) == {0, 128, 255}
    assert (result != 128).mean() == pytest.approx(amount, rel=0.05)
    assert (result == 0).mean() == pytest.approx(amount / 2, rel=0.05)


@pytest.mark.parametrize(('severity', 'std'), levels(0.15, 0.2, 0.35, 0.45, 0.6))
def test_speckle(severity, std):
    for level in (0.1, 0.2):
        values = noise.speckle_noise(np.full((256, 256, 3), level), rng(), std)
        assert values.std() == pytest.approx(level * std, rel=0.02)
    result = corrupt(grey(0.2, 256), 'speckle_noise', severity, rng()) / 255
    assert result.std() == pytest.approx(np.clip(values, 0, 1).std(), rel=0.03)
