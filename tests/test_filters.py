"""Filters against sums over neighbours and against torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from corruption_pictures import rng

from timm_debias.corruptions.filters import gaussian, mirror, mirror_once, sample


def test_borders():
    index = np.arange(-4, 8)
    assert mirror(index, 4).tolist() == [3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0]
    assert mirror_once(index, 4).tolist() == [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]


@pytest.mark.parametrize('sigma', [0.7, 2.44, 170.8])
def test_gaussian_against_sums(sigma):
    image = rng().random((33, 32, 2))
    radius = int(3 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(image, [(radius, radius), (0, 0), (0, 0)], mode='symmetric')
    down = sum(weight * padded[step : step + 33] for step, weight in enumerate(weights))
    padded = np.pad(down, [(0, 0), (radius, radius), (0, 0)], mode='symmetric')
    expected = sum(weight * padded[:, step : step + 32] for step, weight in enumerate(weights))
    assert np.abs(gaussian(image, sigma, truncate=3.0, border=mirror) - expected).max() < 1e-9


def test_sample_against_torch():
    image = rng().random((20, 30, 3))
    y, x = 20 * rng(1).random((9, 9)) - 0.5, 30 * rng(2).random((9, 9)) - 0.5
    place = torch.from_numpy(np.stack([(2 * x + 1) / 30 - 1, (2 * y + 1) / 20 - 1], axis=2))[None]
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = F.grid_sample(tensor, place, padding_mode='reflection', align_corners=False)[0].permute(1, 2, 0)
    assert np.abs(sample(image, y, x, mirror) - expected.numpy()).max() < 1e-9
