"""Blurs against moments of a blurred point, torch, and loops over pixels."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from corruption_pictures import dot, levels, moments, rng

from timm_debias.corruptions import blur, corrupt
from timm_debias.corruptions.filters import enlarge, gaussian, smear


@pytest.mark.parametrize(('severity', 'sigma'), levels(1, 2, 3, 4, 6))
def test_gaussian(severity, sigma, photo):
    result = blur.gaussian_blur(dot(), rng(), sigma)
    centre, variance = moments(result)
    assert result.sum() == pytest.approx(3)
    assert centre == pytest.approx([0, 0], abs=1e-9)
    assert variance == pytest.approx([sigma**2] * 2, rel=0.01)
    direct = (blur.gaussian_blur(photo / 255, rng(), sigma) * 255 + 1e-6).astype(np.uint8)
    assert (corrupt(photo, 'gaussian_blur', severity, rng()) == direct).all()


@pytest.mark.parametrize(('radius', 'alias'), [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)])
def test_defocus_spreads_over_a_disc(radius, alias):
    result = blur.defocus_blur(dot(), rng(), radius, alias)
    assert result.sum() == pytest.approx(3, rel=0.02)
    assert (result[..., 0] > 0.5 * result.max()).sum() == pytest.approx(math.pi * radius**2, rel=0.1)
    assert moments(result)[1] == pytest.approx([radius**2 / 4] * 2, rel=0.12)  # Of a full disc.


@pytest.mark.parametrize(('radius', 'sigma'), [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)])
def test_motion_keeps_the_mean_and_moves_along_its_angle(radius, sigma):
    for degrees in (0, 30, -45, -90):
        result = smear(dot(), radius, sigma, degrees)
        assert result.sum() == pytest.approx(3)
        steps = np.arange(2 * radius + 1)
        weights = np.exp(-0.5 * (steps / sigma) ** 2)
        shift = -(weights * steps).sum() / weights.sum()
        direction = np.array([math.sin(math.radians(degrees)), math.cos(math.radians(degrees))])
        assert moments(result)[0] == pytest.approx(shift * direction, abs=0.5)


def test_motion_angles_stay_within_45_degrees():
    for seed in range(20):
        y, x = moments(blur.motion_blur(dot(), rng(seed), 15, 8))[0]
        assert abs(y) <= abs(x) + 0.5


@pytest.mark.parametrize('factor', [1.0, 1.1, 1.26, 3.0])
def test_enlarge_against_torch(factor):
    image = rng().random((60, 60, 3))
    part = math.ceil(60 / factor)
    start = (60 - part) // 2
    cut = torch.from_numpy(image[start : start + part, start : start + part]).permute(2, 0, 1)[None]
    side = round(part * factor)
    expected = F.interpolate(cut, size=(side, side), mode='bilinear', align_corners=True)[0].permute(1, 2, 0)
    trim = (side - 60) // 2
    expected = expected[trim : trim + 60, trim : trim + 60].numpy()
    assert np.abs(enlarge(image, factor) - expected).max() < 1e-9


@pytest.mark.parametrize(('stop', 'step', 'last'), [(1.16, 0.01, 1.15), (1.26, 0.02, 1.24), (1.31, 0.03, 1.3)])
def test_zoom_averages_enlargements(stop, step, last):
    image = rng().random((64, 64, 3))
    factors = [1 + step * number for number in range(round((last - 1) / step) + 1)]
    expected = sum((enlarge(image, factor) for factor in factors), image) / (len(factors) + 1)
    assert np.abs(blur.zoom_blur(image, rng(), stop, step) - expected).max() < 1e-6


@pytest.mark.parametrize(('sigma', 'reach', 'iterations'), [(0.7, 1, 2), (1, 2, 3), (1.5, 4, 2)])
def test_glass_against_loops_over_pixels(sigma, reach, iterations):
    image = rng().random((32, 36, 3))
    pixels = np.floor(gaussian(image, sigma) * 255)
    draws = rng(5)
    for _ in range(iterations):
        down, right = draws.integers(-reach, reach, (2, (32 - 2 * reach) * (36 - 2 * reach)))
        number = 0
        for y in range(32 - reach, reach, -1):
            for x in range(36 - reach, reach, -1):
                pixels[y, x] = pixels[y + down[number], x + right[number]]
                number += 1
    result = blur.glass_blur(image, rng(5), sigma, reach, iterations)
    assert np.abs(result - gaussian(pixels / 255, sigma)).max() < 1e-9
