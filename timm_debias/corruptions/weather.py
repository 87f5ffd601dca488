"""Weather: snow, frost and fog."""

import numpy as np

from .filters import enlarge, plasma, smear
from .frost import draw_frost

_LUMA = np.array([0.299, 0.587, 0.114])


def snow(
    image: np.ndarray,
    rng: np.random.Generator,
    mean: float,
    std: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    kept: float,
) -> np.ndarray:
    """Whiten the image and add flakes that fall.

    Flakes are normal noise of `mean` and `std`, enlarged by `zoom`, 0 below `threshold`, smeared with `radius` and
    `sigma` within 45 degrees of the vertical, once as they are and once turned by 180 degrees. The share `kept` of the
    image stays, the rest gives way to its whitened self.
    """
    flakes = enlarge(rng.normal(mean, std, (*image.shape[:2], 1)), zoom)
    flakes = np.where(flakes < threshold, 0, np.clip(flakes, 0, 1))
    flakes = smear(flakes, int(radius), sigma, rng.uniform(-135, -45))
    white = np.maximum(image, (image * _LUMA).sum(axis=2, keepdims=True) * 1.5 + 0.5)
    return kept * image + (1 - kept) * white + flakes + flakes[::-1, ::-1]


def frost(image: np.ndarray, rng: np.random.Generator, kept: float, amount: float) -> np.ndarray:
    """Add `amount` of a frosted window, drawn by code, to the share `kept` of the image."""
    height, width = image.shape[:2]
    return kept * image + amount * draw_frost(height, width, rng)


def fog(image: np.ndarray, rng: np.random.Generator, amount: float, decay: float) -> np.ndarray:
    """Add `amount` of a plasma and darken so that the brightest value stays possible; small `decay`, rough fog."""
    height, width = image.shape[:2]
    brightest = image.max()
    haze = plasma(max(height, width), decay, rng)[:height, :width, None]
    return (image + amount * haze) * brightest / (brightest + amount)
