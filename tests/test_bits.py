"""Packing a truth value for each image."""

import numpy as np
import pytest

from timm_debias.validation.bits import pack, unpack


@pytest.mark.parametrize('length', [0, 1, 7, 8, 9, 1000])
def test_there_and_back(length):
    values = np.random.default_rng(length).random(length) < 0.5
    text = pack(values)
    assert len(text) == 2 * -(-length // 8)
    assert np.array_equal(unpack(text, length), values)


def test_first_value_is_the_highest_bit():
    assert pack(np.array([True, False, False, False, False, False, False, False, True])) == '8080'


@pytest.mark.parametrize(('text', 'length'), [('80', 9), ('8080', 8), ('xy', 8)])
def test_text_that_does_not_fit(text, length):
    with pytest.raises(ValueError, match=r'.'):
        unpack(text, length)
