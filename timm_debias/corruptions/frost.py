"""Frost on a window, drawn by code."""

import math

import numpy as np

from .filters import plasma

_COLOUR = np.array([0.57, 0.66, 0.70])
_BRIGHTNESS = (0.65, 1.3)
_CONTRAST = 0.11
_SPOTS = 28


def draw_frost(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw feathers of ice that grow from random places in random directions.

    Mean colour, range of brightness and contrast are those of the five photographs that ImageNet-C draws from
    (measured: means of 0.39 to 0.81, standard deviation within a crop of 224 pixels 0.06 to 0.15, bluish).

    Returns:
        [height, width, 3] float in [0, 1].
    """
    size = max(height, width)
    warp = 12 * (plasma(size, 1.7, rng)[:height, :width] - 0.5)
    y, x = np.arange(height)[:, None] + warp, np.arange(width)[None, :] + np.roll(warp, size // 3, axis=1)
    nearest = np.full((height, width), np.inf)
    feathers = np.zeros((height, width))
    for _ in range(_SPOTS):
        down, right, angle = rng.uniform(-0.1, 1.1) * height, rng.uniform(-0.1, 1.1) * width, rng.uniform(0, math.tau)
        reach = rng.uniform(0.6, 1.4)
        along = (y - down) * math.sin(angle) + (x - right) * math.cos(angle)
        across = np.abs((x - right) * math.sin(angle) - (y - down) * math.cos(angle))
        distance = np.hypot(along, 2 * across) / reach
        feathers = np.where(distance < nearest, _feather(along, across, rng.uniform(7, 13)), feathers)
        nearest = np.minimum(nearest, distance)
    grain = plasma(size, 1.1, rng)[:height, :width]
    ice = feathers / feathers.std() + 1.4 * grain / grain.std()
    ice = _CONTRAST * (ice - ice.mean()) / ice.std()
    colour = _COLOUR * rng.uniform(*_BRIGHTNESS)
    return np.clip(colour + ice[..., None], 0, 1)


def _feather(along: np.ndarray, across: np.ndarray, period: float) -> np.ndarray:
    """Return a bright spine with barbs that leave it at 60 degrees, and finer barbs between them."""
    barbs = _ridge((along - across / math.tan(math.radians(60))) / period)
    finer = _ridge((along - 0.2 * across) / (0.37 * period))
    return barbs + 0.5 * finer + 2 * np.exp(-np.square(across / 1.5))


def _ridge(phase: np.ndarray) -> np.ndarray:
    """Return sharp ridges of height 1, one a period."""
    return np.square(1 - 2 * np.abs(phase - np.round(phase)))
