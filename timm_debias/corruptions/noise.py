"""Noise: Gaussian, shot, impulse and speckle."""

import numpy as np


def gaussian_noise(image: np.ndarray, rng: np.random.Generator, std: float) -> np.ndarray:
    """Add normal noise of standard deviation `std` to every value."""
    return image + rng.normal(scale=std, size=image.shape)


def shot_noise(image: np.ndarray, rng: np.random.Generator, photons: float) -> np.ndarray:
    """Count photons: Poisson noise where white is `photons` of them."""
    return rng.poisson(image * photons) / photons


def impulse_noise(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Set the share `amount` of all values to 0 or 1, each half of them; channels are hit separately."""
    hit = rng.random(image.shape) <= amount
    return np.where(hit, rng.integers(0, 2, image.shape), image)


def speckle_noise(image: np.ndarray, rng: np.random.Generator, std: float) -> np.ndarray:
    """Add normal noise of `std` times the value."""
    return image + image * rng.normal(scale=std, size=image.shape)
