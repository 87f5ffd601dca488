"""Metrics against published figures."""

import pytest

from timm_debias.metrics import shape_bias


@pytest.mark.parametrize(
    ('n_shape', 'n_texture', 'percent'),
    [(9236, 398, 95.87), (162, 572, 22.07)],  # humans, ResNet-50: per-trial data of bethgelab/model-vs-human
)
def test_shape_bias(n_shape, n_texture, percent):
    assert 100 * shape_bias(n_shape, n_texture) == pytest.approx(percent, abs=0.005)


def test_shape_bias_without_decisions():
    assert shape_bias(0, 0) is None
