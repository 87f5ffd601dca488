"""Blur: defocus, frosted glass, motion, zoom and Gaussian."""

import numpy as np

from .filters import convolve, enlarge, gaussian, mirror_once, smear


def defocus_blur(image: np.ndarray, rng: np.random.Generator, radius: float, alias_blur: float) -> np.ndarray:
    """Average over a disc of `radius` pixels whose edge is softened by a Gaussian of `alias_blur` pixels."""
    reach = max(8, int(radius))
    softening = 1 if radius <= 8 else 2
    axis = np.arange(-reach, reach + 1)
    disc = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(float)
    steps = np.arange(-softening, softening + 1)
    soft = np.exp(-0.5 * np.square(steps / alias_blur))
    soft /= soft.sum()
    disc = convolve(disc[..., None] / disc.sum(), soft[:, None] * soft, mirror_once)[..., 0]
    return convolve(image, disc, mirror_once)


def glass_blur(
    image: np.ndarray, rng: np.random.Generator, sigma: float, reach: float, iterations: float
) -> np.ndarray:
    """Smooth, let every pixel take the value of one up to `reach` pixels away `iterations` times, smooth again.

    The paper shuffles pixels; the code that made ImageNet-C exchanges two views of one array, which copies the second
    over the first. Here as there, from the lower right to the upper left, each pixel as left by those before it.
    """
    height, width = image.shape[:2]
    reach = int(reach)
    smooth = np.floor(gaussian(image, sigma) * 255 + 1e-6) / 255
    origin = list(range(height * width))
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    places = (rows[:, None] * width + columns).ravel()
    for _ in range(int(iterations)):
        down, right = rng.integers(-reach, reach, (2, len(places)))
        for place, other in zip(places.tolist(), (places + down * width + right).tolist(), strict=True):
            origin[place] = origin[other]
    shuffled = smooth.reshape(height * width, -1)[origin].reshape(image.shape)
    return gaussian(shuffled, sigma)


def motion_blur(image: np.ndarray, rng: np.random.Generator, radius: float, sigma: float) -> np.ndarray:
    """Blur along a direction within 45 degrees of the horizontal; see `smear`."""
    return smear(image, int(radius), sigma, rng.uniform(-45, 45))


def zoom_blur(image: np.ndarray, rng: np.random.Generator, stop: float, step: float) -> np.ndarray:
    """Average the image with enlargements of itself by 1, 1 + step, … below `stop`."""
    factors = np.arange(1, stop, step)
    total = image + sum(enlarge(image, factor) for factor in factors)
    return total / (len(factors) + 1)


def gaussian_blur(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Smooth with a Gaussian of `sigma` pixels."""
    return gaussian(image, sigma)
