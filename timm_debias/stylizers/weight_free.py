"""Stylizers without a network: what mixing global statistics alone does, to compare learned ones with."""

import os

import torch
import torch.nn.functional as F

from ..errors import DebiasError
from .base import Features, Style, Stylizer, adain, mean_std
from .registry import register_stylizer

_LEVELS = 3


class BandStatistics(Stylizer):
    """Gives each band of a Laplacian pyramid the mean and standard deviation a colour that the style has there.

    Burt & Adelson, "The Laplacian Pyramid as a Compact Image Code" (1983); the statistics are AdaIN's.
    """

    def encode(self, images: torch.Tensor) -> Features:
        bands = []
        for _ in range(_LEVELS):
            coarse = F.avg_pool2d(images, 2, ceil_mode=True, count_include_pad=False)
            bands.append(images - _enlarged(coarse, images))
            images = coarse
        return (*bands, images)

    def style(self, features: Features) -> Style:
        return tuple(statistic for band in features for statistic in mean_std(band))

    def decode(self, features: Features, style: Style, alpha: float) -> torch.Tensor:
        bands = [adain(band, style[2 * number], style[2 * number + 1], alpha) for number, band in enumerate(features)]
        image = bands.pop()
        while bands:
            band = bands.pop()
            image = band + _enlarged(image, band)
        return image


class FourierAmplitude(Stylizer):
    """Keeps the phase of the content's spectrum and takes the amplitude of the style's.

    Chen et al., "Amplitude-Phase Recombination" (ICCV 2021). Content and style must have one size.
    """

    def encode(self, images: torch.Tensor) -> Features:
        with torch.autocast(images.device.type, enabled=False):
            return (torch.fft.rfft2(images.float()), images[:, :1])

    def style(self, features: Features) -> Style:
        return (features[0].abs(),)

    def decode(self, features: Features, style: Style, alpha: float) -> torch.Tensor:
        spectrum, image = features
        if style[0].shape[-2:] != spectrum.shape[-2:]:
            raise DebiasError('fourier_amplitude mixes images of one size only; resize content or style before')
        amplitude = torch.lerp(spectrum.abs(), style[0], alpha)
        return torch.fft.irfft2(torch.polar(amplitude, spectrum.angle()), s=image.shape[-2:]).to(image.dtype)


@register_stylizer
def band_statistics(weights: str | os.PathLike | None = None) -> Stylizer:
    """weight-free: statistics of Laplacian bands."""
    return _without_weights(BandStatistics(), weights)


@register_stylizer
def fourier_amplitude(weights: str | os.PathLike | None = None) -> Stylizer:
    """weight-free: amplitude of the Fourier spectrum."""
    return _without_weights(FourierAmplitude(), weights)


def _without_weights(stylizer: Stylizer, weights: str | os.PathLike | None) -> Stylizer:
    if weights is not None:
        raise DebiasError(f'{type(stylizer).__name__} has no weights to load: {weights}')
    return stylizer


def _enlarged(coarse: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(coarse, size=like.shape[-2:], mode='bilinear', align_corners=False)
