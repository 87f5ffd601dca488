"""Weight-free stylizers against numpy and against styles whose effect is known."""

import numpy as np
import pytest
import torch

from timm_debias import DebiasError, create_stylizer

NAMES = ('band_statistics', 'fourier_amplitude')


def batch(*size: int, seed: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('size', [(16, 16), (17, 31), (40, 48)])
def test_alpha_0_gives_the_content_back(name, size):
    content = batch(2, 3, *size, seed=0)
    result = create_stylizer(name)(content, batch(2, 3, *size, seed=1), 0.0)
    torch.testing.assert_close(result, content, atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', NAMES)
def test_a_brighter_copy_of_the_content_is_reached(name):
    """Whatever statistics are mixed, those of a scaled and shifted copy turn the content into the copy."""
    content = batch(2, 3, 32, 32, seed=0)
    style = 0.5 * content + 0.3
    torch.testing.assert_close(create_stylizer(name)(content, style, 1.0), style, atol=2e-3, rtol=0)


@pytest.mark.parametrize('name', NAMES)
def test_one_encoding_equals_two(name):
    images, partners = batch(4, 3, 24, 32, seed=0), torch.tensor([2, 0, 3, 1])
    stylizer = create_stylizer(name)
    torch.testing.assert_close(stylizer.mix(images, partners, 0.5), stylizer(images, images[partners], 0.5))


@pytest.mark.parametrize('name', NAMES)
def test_weights_are_refused(name, tmp_path):
    with pytest.raises(DebiasError, match='no weights'):
        create_stylizer(name, tmp_path)


def test_amplitude_and_phase_by_numpy():
    content, style = batch(1, 3, 18, 20, seed=0), batch(1, 3, 18, 20, seed=1)
    result = create_stylizer('fourier_amplitude')(content, style, 0.25)
    own, other = np.fft.fft2(content.numpy()), np.fft.fft2(style.numpy())
    mixed = (0.75 * np.abs(own) + 0.25 * np.abs(other)) * np.exp(1j * np.angle(own))
    np.testing.assert_allclose(result.numpy(), np.fft.ifft2(mixed).real, atol=1e-5)


def test_amplitudes_of_another_size_are_refused():
    with pytest.raises(DebiasError, match='one size'):
        create_stylizer('fourier_amplitude')(batch(1, 3, 16, 16, seed=0), batch(1, 3, 24, 16, seed=1), 0.5)


def test_band_statistics_move_contrast_and_colour():
    """The mean of every band but the coarsest is near zero, so the image's mean is the coarsest band's."""
    content, style = batch(1, 3, 32, 32, seed=0), 0.2 + 0.1 * batch(1, 3, 64, 64, seed=1)
    result = create_stylizer('band_statistics')(content, style, 1.0)
    torch.testing.assert_close(result.mean((2, 3)), style.mean((2, 3)), atol=5e-3, rtol=0)
    torch.testing.assert_close(result.std((2, 3)), style.std((2, 3)), atol=1e-2, rtol=0)
