"""Posterize with any number of bits, in timm's policies too."""

import numpy as np
import pytest
import timm.data.auto_augment as auto_augment
from PIL import Image
from timm.data.auto_augment import AugmentOp, auto_augment_transform, rand_augment_transform

from timm_debias.training.posterize import posterize, repair_posterize


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def repaired(monkeypatch):
    for name in [name for name in auto_augment.NAME_TO_OP if name.startswith('Posterize')]:
        monkeypatch.setitem(auto_augment.NAME_TO_OP, name, auto_augment.posterize)
    repair_posterize()


@pytest.mark.parametrize('bits', range(9))
def test_the_highest_bits_are_kept(image, bits):
    step = 2 ** (8 - bits)
    assert np.array_equal(np.asarray(posterize(image, bits)), np.asarray(image, dtype=int) // step * step)


@pytest.mark.parametrize(('magnitude', 'bits'), [(10, 0), (9, 1), (5, 2), (0, 4)])
def test_operation_of_timm(image, magnitude, bits):
    operation = AugmentOp('PosterizeIncreasing', prob=1.0, magnitude=magnitude)
    assert np.array_equal(np.asarray(operation(image)), np.asarray(posterize(image, bits)))


def test_policies_that_keep_no_bit(image):
    """Pillow 13 refuses dozens of these images, were it asked."""
    for policy in (auto_augment_transform('v0', {}), rand_augment_transform('rand-m10-inc1-mstd0', {})):
        for _ in range(2000):
            assert policy(image).size == image.size
