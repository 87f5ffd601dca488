"""Counts against arithmetic and published figures."""

import pytest
import torch
from torch import nn

from timm_debias import DebiasError, Stylizer
from timm_debias.benchmark.size import count, count_macs, count_parameters, model_size


class Convolution(Stylizer):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)

    def encode(self, images):
        return (images,)

    def style(self, features):
        return features

    def decode(self, features, style, alpha):
        return self.conv(features[0])[:, :3]


def test_stylizer():
    stylizer = Convolution()
    assert count_parameters(stylizer) == 3 * 8 * 9
    assert count_macs(stylizer, 32) == 3 * 8 * 9 * 32 * 32


def test_activations_are_what_is_computed_and_not_what_is_viewed():
    conv, images = nn.Conv2d(3, 5, 1), torch.zeros(2, 3, 4, 4)
    with torch.no_grad():
        macs, activations = count(lambda: conv(images).relu().flatten(1).view(2, 5, 16).transpose(1, 2))
    assert macs == 2 * 3 * 5 * 16
    assert activations == 2 * (2 * 5 * 16)


def test_published_figures():
    """timm's table of ResNet-50 at 224 pixels: 25.56 M parameters, 4.11 GMAC, batch norm counted in there."""
    size = model_size('resnet50', 224)
    assert size.parameters == 25_557_032
    assert size.macs == pytest.approx(4.11e9, rel=0.01)


def test_sizes_follow_the_resolution():
    large, small = model_size('test_resnet', 128), model_size('test_resnet', 64)
    assert large.macs == pytest.approx(4 * small.macs, rel=0.01)
    assert large.activations == pytest.approx(4 * small.activations, rel=0.01)
    assert large.parameters == small.parameters


@pytest.mark.parametrize(('model', 'size'), [('test_vit', 100), ('no_such_model', 64)])
def test_refused(model, size):
    with pytest.raises(DebiasError, match=f'{model} does not take images of {size} pixels'):
        model_size(model, size)
