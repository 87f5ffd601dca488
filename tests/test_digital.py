"""Digital corruptions against colorsys, Pillow, and what they leave unchanged."""

import colorsys
import io
import math

import numpy as np
import pytest
from corruption_pictures import levels, rng
from PIL import Image

from timm_debias.corruptions import corrupt, digital


@pytest.mark.parametrize(('severity', 'factor'), levels(0.4, 0.3, 0.2, 0.1, 0.05))
def test_contrast_keeps_the_mean(severity, factor, photo):
    result = corrupt(photo, 'contrast', severity, rng())
    assert np.abs(result.mean((0, 1)) - photo.mean((0, 1))).max() < 1
    assert result.std((0, 1)) == pytest.approx(factor * photo.std((0, 1)), abs=0.35)


@pytest.mark.parametrize(('severity', 'amount'), levels(0.1, 0.2, 0.3, 0.4, 0.5))
def test_brightness_against_colorsys(severity, amount):
    check_hsv('brightness', severity, lambda h, s, v: (h, s, min(1, v + amount)))


@pytest.mark.parametrize(
    ('severity', 'factor', 'shift'), [(1, 0.3, 0), (2, 0.1, 0), (3, 2, 0), (4, 5, 0.1), (5, 20, 0.2)]
)
def test_saturate_against_colorsys(severity, factor, shift):
    check_hsv('saturate', severity, lambda h, s, v: (h, min(1, s * factor + shift), v))


def check_hsv(name, severity, change):
    image = rng().integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image[:4] = image[:4, :, :1]  # Greys.
    image[4] = 0
    expected = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in image.reshape(-1, 3) / 255]
    levels = (np.reshape(expected, image.shape) * 255 + 1e-6).astype(int)
    assert np.abs(corrupt(image, name, severity, rng()).astype(int) - levels).max() <= 1


@pytest.mark.parametrize(('severity', 'factor'), levels(0.6, 0.5, 0.4, 0.3, 0.25))
def test_pixelate_has_blocks(severity, factor):
    image = rng().integers(0, 256, (120, 120, 3), dtype=np.uint8)
    result = corrupt(image, 'pixelate', severity, rng())
    if 1 / factor == round(1 / factor):
        block = round(1 / factor)
        means = image.reshape(120 // block, block, 120 // block, block, 3).mean((1, 3))
        assert np.abs(result - means.repeat(block, 0).repeat(block, 1)).max() <= 1
    else:
        # A row that repeats the one above it lies in the same block.
        assert 1 + (result[1:] != result[:-1]).any((1, 2)).sum() == int(120 * factor)
        assert np.abs(result.mean() - image.mean()) < 1


@pytest.mark.parametrize(('severity', 'quality'), levels(25, 18, 15, 10, 7))
def test_jpeg(severity, quality, photo):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, 'JPEG', quality=quality)
    expected = np.array(Image.open(file))
    assert (corrupt(photo, 'jpeg_compression', severity, rng()) == expected).all()


def ramp(size: int = 160) -> np.ndarray:
    """An image whose first two channels are its own coordinates."""
    y, x = np.mgrid[:size, :size].astype(float)
    return np.stack([y, x, 0 * x], axis=2)


@pytest.mark.parametrize(('strength', 'sigma'), [(12.2, 2.44), (17.08, 2.44), (29.28, 2.44), (488, 19.52)])
def test_bending_has_the_deviation_of_smoothed_noise(strength, sigma):
    found = []
    for seed in range(3):
        result = digital.elastic_transform(ramp(), rng(seed), strength, sigma, 0)
        found.append((result - ramp())[40:-40, 40:-40, :2].std())
    # Uniform noise has variance 1/3; a Gaussian leaves 1 / (4 π sigma²) of it.
    wide = 0.3 if sigma > 10 else 0.05  # A wide Gaussian leaves few independent values to measure.
    assert np.mean(found) == pytest.approx(strength * math.sqrt(1 / (12 * math.pi)) / sigma, rel=wide)


@pytest.mark.parametrize('affine', [24.4, 48.8, 4.88])
def test_three_points_move(affine):
    centre, arm = 80, 53
    points = np.array([[centre + arm] * 2, [centre - arm, centre + arm], [centre - arm] * 2])
    moved = points + rng(3).uniform(-affine, affine, (3, 2))
    result = digital.elastic_transform(ramp(), rng(3), 0, 2.44, affine)
    # Where nothing is reflected, coordinates come from an affine map: fit it, and ask where the points came from.
    y, x = np.mgrid[78:83, 78:83].reshape(2, -1)
    fit = np.linalg.lstsq(np.column_stack([y, x, np.ones(25)]), result[y, x, :2], rcond=None)[0]
    assert np.column_stack([moved, np.ones(3)]) @ fit == pytest.approx(points, abs=1e-6)
