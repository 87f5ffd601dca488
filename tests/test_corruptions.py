"""The corruptions as one: names, published strengths, and what holds for each of them."""

import numpy as np
import pytest
from corruption_pictures import grey, rng

from timm_debias import DebiasError
from timm_debias.corruptions import MAIN, SEVERITIES, corrupt, list_corruptions
from timm_debias.metrics import ALEXNET_ERRORS, EXTRA_CORRUPTIONS

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


def test_names():
    assert tuple(ALEXNET_ERRORS) == MAIN
    assert list_corruptions() == [*MAIN, *EXTRA_CORRUPTIONS]


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
def test_published_strengths(name, published):
    assert np.allclose(SEVERITIES[name], published)


@pytest.mark.parametrize('severity', range(1, 6))
@pytest.mark.parametrize('name', list_corruptions())
def test_every_corruption(name, severity, photo):
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
def test_other_sizes(name, photo):
    for height, width in ((32, 32), (40, 57)):
        assert corrupt(photo[:height, :width], name, 3, rng()).shape == (height, width, 3)


@pytest.mark.parametrize('name', list_corruptions())
@pytest.mark.parametrize('value', [0, 1])
def test_black_and_white(name, value):
    with np.errstate(all='raise', under='ignore'):
        corrupt(grey(value, 32), name, 5, rng())


@pytest.mark.parametrize(
    'name',
    # Those whose published strengths grow in one direction.
    sorted(
        set(list_corruptions()) - {'glass_blur', 'snow', 'frost', 'fog', 'elastic_transform', 'spatter', 'saturate'}
    ),
)
def test_error_grows_with_severity(name, photo):
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
def test_mistakes(image, name, severity, message):
    with pytest.raises(DebiasError) as error:
        corrupt(image, name, severity, rng())
    assert message in str(error.value)


def test_levels_are_cut_off_and_whole_ones_stay(monkeypatch):
    monkeypatch.setitem(corrupt.__globals__['_FUNCTIONS'], 'contrast', lambda image, rng, factor: image)
    levels = np.arange(256, dtype=np.uint8).repeat(4).reshape(32, 32)[..., None].repeat(3, axis=2)
    assert (corrupt(levels, 'contrast', 1, rng()) == levels).all()
    monkeypatch.setitem(corrupt.__globals__['_FUNCTIONS'], 'contrast', lambda image, rng, factor: image + 0.9 / 255)
    assert (corrupt(levels, 'contrast', 1, rng()) == levels).all()
