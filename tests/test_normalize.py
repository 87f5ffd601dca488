"""Normalisation against torchvision's."""

import pytest
import torch
from torchvision.transforms.functional import normalize

from timm_debias import DebiasError
from timm_debias.normalize import Normalize


def test_against_torchvision(images):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    module = Normalize(mean, std)
    torch.testing.assert_close(module(images), normalize(images, mean, std))
    torch.testing.assert_close(module.inverse(module(images)), images)


def test_half_precision_goes_back_to_full_float_range(images):
    module = Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert module(images.bfloat16()).dtype == torch.bfloat16
    assert module.inverse(images.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(('mean', 'std'), [((0.5,), (0.5,)), ((0, 0, 0), (1, 1, 0)), ((0, 0, 0), (1, 1))])
def test_refuses_nonsense(mean, std):
    with pytest.raises(DebiasError, match='expected 3 values'):
        Normalize(mean, std)
