"""The 15 corruptions of ImageNet-C and its four extra ones, in numpy and PIL.

Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (ICLR 2019).
Made anew from the published definitions and strengths: images made with them are ImageNet-C-style, not ImageNet-C.
Frost is drawn by code, where ImageNet-C lays photographs over the image; the outline of drops of `spatter` is that of
their mask, where ImageNet-C runs an edge detector.
"""

from collections.abc import Callable

import numpy as np

from ..errors import DebiasError, did_you_mean
from . import blur, digital, noise, spatter, weather
from .severities import SEVERITIES

__all__ = ['MAIN', 'MIN_SIZE', 'SEVERITIES', 'corrupt', 'list_corruptions']

MIN_SIZE = 32
"""Smallest height and width in pixels."""

MAIN = tuple(SEVERITIES)[:15]
"""The corruptions of the mCE."""

_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    'gaussian_noise': noise.gaussian_noise,
    'shot_noise': noise.shot_noise,
    'impulse_noise': noise.impulse_noise,
    'defocus_blur': blur.defocus_blur,
    'glass_blur': blur.glass_blur,
    'motion_blur': blur.motion_blur,
    'zoom_blur': blur.zoom_blur,
    'snow': weather.snow,
    'frost': weather.frost,
    'fog': weather.fog,
    'brightness': digital.brightness,
    'contrast': digital.contrast,
    'elastic_transform': digital.elastic_transform,
    'pixelate': digital.pixelate,
    'jpeg_compression': digital.jpeg_compression,
    'speckle_noise': noise.speckle_noise,
    'gaussian_blur': blur.gaussian_blur,
    'spatter': spatter.spatter,
    'saturate': digital.saturate,
}


def list_corruptions() -> list[str]:
    """Return the names of all 19 corruptions, those of the mCE first."""
    return list(SEVERITIES)


def corrupt(image: np.ndarray, name: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Return a corrupted copy of an image.

    Args:
        image: [H, W, 3] uint8, sides of at least `MIN_SIZE` pixels. The published strengths are for 224 × 224.
        name: One of `list_corruptions()`.
        severity: 1 (weak) to 5 (strong).
        rng: Source of everything random.

    Returns:
        [H, W, 3] uint8; fractions of a level are cut off, as in ImageNet-C.

    Raises:
        DebiasError: unknown corruption or severity, or an image of another type, shape or size.
    """
    if name not in SEVERITIES:
        raise DebiasError(f"unknown corruption '{name}'. {did_you_mean(name, SEVERITIES)}")
    if severity not in range(1, 6):
        raise DebiasError(f'severity is {severity}; expected 1 to 5')
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < MIN_SIZE:
        raise DebiasError(
            f'expected an image [H, W, 3] of uint8, at least {MIN_SIZE}×{MIN_SIZE}; found {image.dtype} '
            f'{list(image.shape)}'
        )
    result = _FUNCTIONS[name](image / 255, rng, *SEVERITIES[name][severity - 1])
    # Whole levels stay whole: 255 · (k / 255) may round to just below k.
    return (np.clip(result, 0, 1) * 255 + 1e-6).astype(np.uint8)
