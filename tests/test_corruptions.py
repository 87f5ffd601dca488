"""The corruptions against independent formulas for the published strengths."""

import colorsys
import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from timm_debias import DebiasError
from timm_debias.corruptions import (
    EXTRA,
    MAIN,
    SEVERITIES,
    blur,
    corrupt,
    digital,
    list_corruptions,
    noise,
    spatter,
    weather,
)
from timm_debias.corruptions.filters import enlarge, gaussian, mirror, mirror_once, plasma, sample, smear
from timm_debias.corruptions.frost import draw_frost

FIXED = {
    'defocus_blur',
    'zoom_blur',
    'gaussian_blur',
    'brightness',
    'contrast',
    'saturate',
    'pixelate',
    'jpeg_compression',
}
"""Corruptions that draw nothing."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def levels(*values) -> list[tuple]:
    """Return (severity, value) for severities 1 to 5."""
    return list(enumerate(values, 1))


def grey(value: float, size: int = 128) -> np.ndarray:
    return np.full((size, size, 3), round(255 * value), dtype=np.uint8)


@pytest.fixture(scope='module')
def photo() -> np.ndarray:
    """A picture with smooth areas, edges and colours, [96, 96, 3]."""
    y, x = np.mgrid[:96, :96] / 96
    fine = gaussian(rng(1).normal(size=(96, 96, 1)), 2)
    picture = np.stack([0.3 + 0.4 * x, 0.2 + 0.5 * y, 0.5 - 0.3 * x * y], axis=2) + 0.7 * fine
    picture[20:60, 30:70] = [0.7, 0.3, 0.2]
    return (255 * np.clip(picture, 0, 1)).astype(np.uint8)


class TestCorrupt:
    def test_names(self):
        assert len(MAIN) == 15
        assert set(EXTRA) == {'speckle_noise', 'gaussian_blur', 'spatter', 'saturate'}
        assert list_corruptions() == [*MAIN, *EXTRA]

    @pytest.mark.parametrize(
        ('name', 'published'),
        [
            # Those of the other corruptions are measured below.
            ('defocus_blur', [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)]),
            ('glass_blur', [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)]),
            ('motion_blur', [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)]),
            ('zoom_blur', [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)]),
            (
                'snow',
                [
                    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
                    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
                    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
                    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
                    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
                ],
            ),
            # Published as shares of 244.
            (
                'elastic_transform',
                [(488, 170.8, 24.4), (488, 19.52, 48.8), *((244 * x, 2.44, 4.88) for x in (0.05, 0.07, 0.12))],
            ),
            (
                'spatter',
                [
                    (0.65, 0.3, 4, 0.69, 0.6, 0),
                    (0.65, 0.3, 3, 0.68, 0.6, 0),
                    (0.65, 0.3, 2, 0.68, 0.5, 0),
                    (0.65, 0.3, 1, 0.65, 1.5, 1),
                    (0.67, 0.4, 1, 0.65, 1.5, 1),
                ],
            ),
        ],
    )
    def test_published_strengths(self, name, published):
        assert np.allclose(SEVERITIES[name], published)

    @pytest.mark.parametrize('severity', range(1, 6))
    @pytest.mark.parametrize('name', list_corruptions())
    def test_every_corruption(self, name, severity, photo):
        before = photo.copy()
        result = corrupt(photo, name, severity, rng())
        assert result.shape == photo.shape
        assert result.dtype == np.uint8
        assert (photo == before).all()
        assert (result == corrupt(photo, name, severity, rng())).all()
        assert (result != photo).any()
        if name not in FIXED:
            assert (result != corrupt(photo, name, severity, rng(1))).any()

    @pytest.mark.parametrize('name', list_corruptions())
    def test_other_sizes(self, name, photo):
        for height, width in ((32, 32), (40, 57)):
            assert corrupt(photo[:height, :width], name, 3, rng()).shape == (height, width, 3)

    @pytest.mark.parametrize('name', list_corruptions())
    @pytest.mark.parametrize('value', [0, 1])
    def test_black_and_white(self, name, value):
        with np.errstate(all='raise', under='ignore'):
            corrupt(grey(value, 32), name, 5, rng())

    @pytest.mark.parametrize(
        'name',
        # Those whose published strengths grow in one direction.
        sorted(
            set(list_corruptions()) - {'glass_blur', 'snow', 'frost', 'fog', 'elastic_transform', 'spatter', 'saturate'}
        ),
    )
    def test_error_grows_with_severity(self, name, photo):
        def error(severity):
            results = [corrupt(photo, name, severity, rng(seed)) for seed in range(3)]
            return np.mean([np.abs(result.astype(float) - photo).mean() for result in results])

        errors = [error(severity) for severity in range(1, 6)]
        assert errors == sorted(errors)

    @pytest.mark.parametrize(
        ('image', 'name', 'severity', 'message'),
        [
            (grey(0.5), 'gausian_noise', 1, "Did you mean 'gaussian_noise'"),
            (grey(0.5), 'fog', 0, 'severity is 0'),
            (grey(0.5), 'fog', 6, 'severity is 6'),
            (grey(0.5) / 255, 'fog', 1, 'float64'),
            (grey(0.5)[..., 0], 'fog', 1, '[128, 128]'),
            (grey(0.5, 31), 'fog', 1, '[31, 31, 3]'),
        ],
    )
    def test_mistakes(self, image, name, severity, message):
        with pytest.raises(DebiasError) as error:
            corrupt(image, name, severity, rng())
        assert message in str(error.value)

    def test_levels_are_cut_off_and_whole_ones_stay(self, monkeypatch):
        monkeypatch.setitem(corrupt.__globals__['_FUNCTIONS'], 'contrast', lambda image, rng, factor: image)
        levels = np.arange(256, dtype=np.uint8).repeat(4).reshape(32, 32)[..., None].repeat(3, axis=2)
        assert (corrupt(levels, 'contrast', 1, rng()) == levels).all()
        monkeypatch.setitem(corrupt.__globals__['_FUNCTIONS'], 'contrast', lambda image, rng, factor: image + 0.9 / 255)
        assert (corrupt(levels, 'contrast', 1, rng()) == levels).all()


class TestNoise:
    @pytest.mark.parametrize(('severity', 'std'), levels(0.08, 0.12, 0.18, 0.26, 0.38))
    def test_gaussian(self, severity, std):
        result = corrupt(grey(0.5), 'gaussian_noise', severity, rng()) / 255
        draws = np.clip(128 / 255 + std * np.linspace(-6, 6, 100_001), 0, 1)
        weights = np.exp(-0.5 * np.linspace(-6, 6, 100_001) ** 2)
        mean = np.average(draws, weights=weights)
        assert result.std() == pytest.approx(np.sqrt(np.average((draws - mean) ** 2, weights=weights)), rel=0.02)

    @pytest.mark.parametrize(('severity', 'photons'), levels(60, 25, 12, 5, 3))
    def test_shot(self, severity, photons):
        level = 51 / 255
        result = noise.shot_noise(np.full((256, 256, 3), level), rng(), photons)
        assert result.mean() == pytest.approx(level, rel=0.01)
        assert result.var() == pytest.approx(level / photons, rel=0.03)
        clipped = corrupt(grey(0.2, 256), 'shot_noise', severity, rng()) / 255
        assert clipped.var() == pytest.approx(np.clip(result, 0, 1).var(), rel=0.03)

    @pytest.mark.parametrize(('severity', 'amount'), levels(0.03, 0.06, 0.09, 0.17, 0.27))
    def test_impulse(self, severity, amount):
        result = corrupt(grey(0.5, 256), 'impulse_noise', severity, rng())
        assert set(np.unique(result)) == {0, 128, 255}
        assert (result != 128).mean() == pytest.approx(amount, rel=0.05)
        assert (result == 0).mean() == pytest.approx(amount / 2, rel=0.05)

    @pytest.mark.parametrize(('severity', 'std'), levels(0.15, 0.2, 0.35, 0.45, 0.6))
    def test_speckle(self, severity, std):
        for level in (0.1, 0.2):
            values = noise.speckle_noise(np.full((256, 256, 3), level), rng(), std)
            assert values.std() == pytest.approx(level * std, rel=0.02)
        result = corrupt(grey(0.2, 256), 'speckle_noise', severity, rng()) / 255
        assert result.std() == pytest.approx(np.clip(values, 0, 1).std(), rel=0.03)


def dot(size: int = 129) -> np.ndarray:
    image = np.zeros((size, size, 3))
    image[size // 2, size // 2] = 1
    return image


def moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and variance along y and x, relative to the middle."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] - image.shape[0] // 2
    weights = image[..., 0] / image[..., 0].sum()
    centre = np.array([(weights * y).sum(), (weights * x).sum()])
    return centre, np.array([(weights * y**2).sum(), (weights * x**2).sum()]) - centre**2


class TestBlur:
    @pytest.mark.parametrize(('severity', 'sigma'), levels(1, 2, 3, 4, 6))
    def test_gaussian(self, severity, sigma, photo):
        result = blur.gaussian_blur(dot(), rng(), sigma)
        centre, variance = moments(result)
        assert result.sum() == pytest.approx(3)
        assert centre == pytest.approx([0, 0], abs=1e-9)
        assert variance == pytest.approx([sigma**2] * 2, rel=0.01)
        direct = (blur.gaussian_blur(photo / 255, rng(), sigma) * 255 + 1e-6).astype(np.uint8)
        assert (corrupt(photo, 'gaussian_blur', severity, rng()) == direct).all()

    @pytest.mark.parametrize(('radius', 'alias'), [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)])
    def test_defocus_spreads_over_a_disc(self, radius, alias):
        result = blur.defocus_blur(dot(), rng(), radius, alias)
        assert result.sum() == pytest.approx(3, rel=0.02)
        assert (result[..., 0] > 0.5 * result.max()).sum() == pytest.approx(math.pi * radius**2, rel=0.1)
        assert moments(result)[1] == pytest.approx([radius**2 / 4] * 2, rel=0.12)  # Of a full disc.

    @pytest.mark.parametrize(('radius', 'sigma'), [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)])
    def test_motion_keeps_the_mean_and_moves_along_its_angle(self, radius, sigma):
        for degrees in (0, 30, -45, -90):
            result = smear(dot(), radius, sigma, degrees)
            assert result.sum() == pytest.approx(3)
            steps = np.arange(2 * radius + 1)
            weights = np.exp(-0.5 * (steps / sigma) ** 2)
            shift = -(weights * steps).sum() / weights.sum()
            direction = np.array([math.sin(math.radians(degrees)), math.cos(math.radians(degrees))])
            assert moments(result)[0] == pytest.approx(shift * direction, abs=0.5)

    def test_motion_angles_stay_within_45_degrees(self):
        for seed in range(20):
            y, x = moments(blur.motion_blur(dot(), rng(seed), 15, 8))[0]
            assert abs(y) <= abs(x) + 0.5

    @pytest.mark.parametrize('factor', [1.0, 1.1, 1.26, 3.0])
    def test_enlarge_against_torch(self, factor):
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
    def test_zoom_averages_enlargements(self, stop, step, last):
        image = rng().random((64, 64, 3))
        factors = [1 + step * number for number in range(round((last - 1) / step) + 1)]
        expected = sum((enlarge(image, factor) for factor in factors), image) / (len(factors) + 1)
        assert np.abs(blur.zoom_blur(image, rng(), stop, step) - expected).max() < 1e-6

    @pytest.mark.parametrize(('sigma', 'reach', 'iterations'), [(0.7, 1, 2), (1, 2, 3), (1.5, 4, 2)])
    def test_glass_against_loops_over_pixels(self, sigma, reach, iterations):
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


class TestDigital:
    @pytest.mark.parametrize(('severity', 'factor'), levels(0.4, 0.3, 0.2, 0.1, 0.05))
    def test_contrast_keeps_the_mean(self, severity, factor, photo):
        result = corrupt(photo, 'contrast', severity, rng())
        assert np.abs(result.mean((0, 1)) - photo.mean((0, 1))).max() < 1
        assert result.std((0, 1)) == pytest.approx(factor * photo.std((0, 1)), abs=0.35)

    @pytest.mark.parametrize(('severity', 'amount'), levels(0.1, 0.2, 0.3, 0.4, 0.5))
    def test_brightness_against_colorsys(self, severity, amount):
        self.check_hsv('brightness', severity, lambda h, s, v: (h, s, min(1, v + amount)))

    @pytest.mark.parametrize(
        ('severity', 'factor', 'shift'), [(1, 0.3, 0), (2, 0.1, 0), (3, 2, 0), (4, 5, 0.1), (5, 20, 0.2)]
    )
    def test_saturate_against_colorsys(self, severity, factor, shift):
        self.check_hsv('saturate', severity, lambda h, s, v: (h, min(1, s * factor + shift), v))

    @staticmethod
    def check_hsv(name, severity, change):
        image = rng().integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image[:4] = image[:4, :, :1]  # Greys.
        image[4] = 0
        expected = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in image.reshape(-1, 3) / 255]
        levels = (np.reshape(expected, image.shape) * 255 + 1e-6).astype(int)
        assert np.abs(corrupt(image, name, severity, rng()).astype(int) - levels).max() <= 1

    @pytest.mark.parametrize(('severity', 'factor'), levels(0.6, 0.5, 0.4, 0.3, 0.25))
    def test_pixelate_has_blocks(self, severity, factor):
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
    def test_jpeg(self, severity, quality, photo):
        file = io.BytesIO()
        Image.fromarray(photo).save(file, 'JPEG', quality=quality)
        expected = np.array(Image.open(file))
        assert (corrupt(photo, 'jpeg_compression', severity, rng()) == expected).all()


class TestElastic:
    @staticmethod
    def ramp(size: int = 160) -> np.ndarray:
        """An image whose first two channels are its own coordinates."""
        y, x = np.mgrid[:size, :size].astype(float)
        return np.stack([y, x, 0 * x], axis=2)

    @pytest.mark.parametrize(('strength', 'sigma'), [(12.2, 2.44), (17.08, 2.44), (29.28, 2.44), (488, 19.52)])
    def test_bending_has_the_deviation_of_smoothed_noise(self, strength, sigma):
        found = []
        for seed in range(3):
            result = digital.elastic_transform(self.ramp(), rng(seed), strength, sigma, 0)
            found.append((result - self.ramp())[40:-40, 40:-40, :2].std())
        # Uniform noise has variance 1/3; a Gaussian leaves 1 / (4 π sigma²) of it.
        wide = 0.3 if sigma > 10 else 0.05  # A wide Gaussian leaves few independent values to measure.
        assert np.mean(found) == pytest.approx(strength * math.sqrt(1 / (12 * math.pi)) / sigma, rel=wide)

    @pytest.mark.parametrize('affine', [24.4, 48.8, 4.88])
    def test_three_points_move(self, affine):
        centre, arm = 80, 53
        points = np.array([[centre + arm] * 2, [centre - arm, centre + arm], [centre - arm] * 2])
        moved = points + rng(3).uniform(-affine, affine, (3, 2))
        result = digital.elastic_transform(self.ramp(), rng(3), 0, 2.44, affine)
        # Where nothing is reflected, coordinates come from an affine map: fit it, and ask where the points came from.
        y, x = np.mgrid[78:83, 78:83].reshape(2, -1)
        fit = np.linalg.lstsq(np.column_stack([y, x, np.ones(25)]), result[y, x, :2], rcond=None)[0]
        assert np.column_stack([moved, np.ones(3)]) @ fit == pytest.approx(points, abs=1e-6)


class TestWeather:
    @pytest.mark.parametrize(('severity', 'kept'), levels(0.8, 0.7, 0.7, 0.65, 0.55))
    def test_snow_whitens_and_adds_flakes(self, severity, kept):
        result = corrupt(grey(0.2), 'snow', severity, rng()) / 255
        ground = kept * 0.2 + (1 - kept) * (1.5 * 0.2 + 0.5)
        assert result.min() == pytest.approx(ground, abs=1 / 255)
        assert result.mean() > ground + 0.01

    @pytest.mark.parametrize(
        ('severity', 'kept', 'amount'), [(1, 1, 0.4), (2, 0.8, 0.6), (3, 0.7, 0.7), (4, 0.65, 0.7), (5, 0.6, 0.75)]
    )
    def test_frost(self, severity, kept, amount, photo):
        expected = np.clip(kept * photo + amount * 255 * draw_frost(96, 96, rng()), 0, 255)
        assert np.abs(corrupt(photo, 'frost', severity, rng()) - expected).max() <= 1

    def test_drawn_frost_is_like_the_photographs(self):
        drawn = [draw_frost(224, 224, rng(seed)) for seed in range(6)]
        assert all(picture.min() >= 0 and picture.max() <= 1 for picture in drawn)
        assert 0.06 < np.mean([picture.mean(2).std() for picture in drawn]) < 0.15
        assert all(0.35 < picture.mean() < 0.85 for picture in drawn)
        red, green, blue = np.mean(drawn, axis=(0, 1, 2))
        assert red < green < blue

    @pytest.mark.parametrize(
        ('severity', 'amount', 'decay'), [(1, 1.5, 2), (2, 2, 2), (3, 2.5, 1.7), (4, 2.5, 1.5), (5, 3, 1.4)]
    )
    def test_fog_spans_its_range(self, severity, amount, decay):
        result = corrupt(grey(1), 'fog', severity, rng()) / 255
        # At 128 pixels the whole plasma is seen, with its 0 and its 1.
        assert result.min() == pytest.approx(1 / (1 + amount), abs=1 / 255)
        assert result.max() == 1
        assert (weather.fog(np.ones((128, 128, 3)), rng(), amount, decay) * 255 + 1e-6).astype(np.uint8).tolist() == (
            result * 255
        ).round().astype(np.uint8).tolist()

    @pytest.mark.parametrize('decay', [1.4, 2])
    def test_plasma_levels(self, decay):
        """What a level adds to the mean of its four neighbours is decay² times smaller one level further down."""
        field = np.mean([self.added(plasma(256, decay, rng(seed))) for seed in range(8)], axis=0)
        assert field[0] / field[1] == pytest.approx(decay**2, rel=0.05)

    @staticmethod
    def added(field: np.ndarray) -> list[float]:
        found = []
        for step in (2, 1):
            coarse = field[::step, ::step]
            corners = coarse[::2, ::2]
            mean = (
                corners + np.roll(corners, -1, 0) + np.roll(corners, -1, 1) + np.roll(corners, (-1, -1), (0, 1))
            ) / 4
            found.append((coarse[1::2, 1::2] - mean).std())
        return found


class TestSpatter:
    @pytest.mark.parametrize(('severity', 'strength'), levels(0.6, 0.6, 0.5))
    def test_water_is_pale_turquoise_and_only_adds(self, severity, strength, photo):
        result = corrupt(grey(0, 224), 'spatter', severity, rng())
        assert result.max((0, 1)) == pytest.approx(strength * np.array([175, 238, 238]), abs=1)
        assert 0.005 < (result > 0).any(2).mean() < 0.3
        assert (corrupt(photo, 'spatter', severity, rng()) >= photo).all()

    @pytest.mark.parametrize('severity', [4, 5])
    def test_mud_covers(self, severity):
        result = corrupt(grey(1, 224), 'spatter', severity, rng())
        assert result.min((0, 1)).tolist() == [63, 42, 20]
        assert 0.01 < (result != 255).any(2).mean() < 0.5

    def test_distance_against_all_pairs(self):
        outline = rng().random((40, 50)) < 0.002
        outline[3, 4] = True
        y, x = np.nonzero(outline)
        rows, columns = np.mgrid[:40, :50]
        expected = np.hypot(rows[..., None] - y, columns[..., None] - x).min(2)
        found = spatter._distance(outline)
        assert np.minimum(found, 20) == pytest.approx(np.minimum(expected, 20))

    def test_outline(self):
        wet = np.zeros((7, 7), dtype=bool)
        wet[1:6, 1:6] = True
        expected = wet.copy()
        expected[2:5, 2:5] = False
        assert (spatter._outline(wet) == expected).all()


class TestFilters:
    def test_borders(self):
        index = np.arange(-4, 8)
        assert mirror(index, 4).tolist() == [3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0]
        assert mirror_once(index, 4).tolist() == [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]

    @pytest.mark.parametrize('sigma', [0.7, 2.44, 170.8])
    def test_gaussian_against_sums(self, sigma):
        image = rng().random((33, 32, 2))
        radius = int(3 * sigma + 0.5)
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        weights /= weights.sum()
        padded = np.pad(image, [(radius, radius), (0, 0), (0, 0)], mode='symmetric')
        down = sum(weight * padded[step : step + 33] for step, weight in enumerate(weights))
        padded = np.pad(down, [(0, 0), (radius, radius), (0, 0)], mode='symmetric')
        expected = sum(weight * padded[:, step : step + 32] for step, weight in enumerate(weights))
        assert np.abs(gaussian(image, sigma, truncate=3.0, border=mirror) - expected).max() < 1e-9

    def test_sample_against_torch(self):
        image = rng().random((20, 30, 3))
        y, x = 20 * rng(1).random((9, 9)) - 0.5, 30 * rng(2).random((9, 9)) - 0.5
        place = torch.from_numpy(np.stack([(2 * x + 1) / 30 - 1, (2 * y + 1) / 20 - 1], axis=2))[None]
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
        expected = F.grid_sample(tensor, place, padding_mode='reflection', align_corners=False)[0].permute(1, 2, 0)
        assert np.abs(sample(image, y, x, mirror) - expected.numpy()).max() < 1e-9
