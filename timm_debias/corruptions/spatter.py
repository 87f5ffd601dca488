"""Spatter: drops of water or splashes of mud on the lens."""

import numpy as np

from .filters import convolve, edge, gaussian, mirror_once

_WATER = np.array([175, 238, 238]) / 255
_MUD = np.array([63, 42, 20]) / 255
_FAR = 20
"""Distances to the outline of a drop count up to this number of pixels."""

_RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
_BOX = np.full((3, 3), 1 / 9)


def spatter(
    image: np.ndarray,
    rng: np.random.Generator,
    mean: float,
    std: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: float,
) -> np.ndarray:
    """Throw water on the image, or with `mud` 1 mud.

    The liquid is normal noise of `mean` and `std`, smoothed with `sigma`, where it exceeds `threshold`. Water is added,
    `strength` of it at its brightest place; mud covers where it, smoothed with `strength` pixels, exceeds 0.8.
    """
    liquid = gaussian(rng.normal(mean, std, (*image.shape[:2], 1)), sigma)[..., 0]
    wet = liquid > threshold
    if mud:
        cover = gaussian(wet[..., None].astype(float), strength)
        cover[cover < 0.8] = 0
        return image * (1 - cover) + _MUD * cover
    if not wet.any():
        return image
    light = np.where(wet, liquid, 0) * _relief(wet)
    return image + strength / max(light.max(), 1e-6) * light[..., None] * _WATER


def _relief(wet: np.ndarray) -> np.ndarray:
    """Return light on drops [H, W], 0 to 255: their distance to the outline, equalised and lit from one side."""
    depth = _bytes(_blur(np.minimum(_distance(_outline(wet)), _FAR)))
    counts = np.cumsum(np.bincount(depth.ravel(), minlength=256))
    lowest = counts[depth.min()]
    equalised = np.round(255 * (counts - lowest) / max(counts[-1] - lowest, 1))[depth]
    # Filters correlate here, so the kernel is turned for the convolution.
    lit = np.clip(convolve(equalised[..., None], _RELIEF[::-1, ::-1], mirror_once)[..., 0], 0, 255)
    return np.round(_blur(lit))


def _outline(wet: np.ndarray) -> np.ndarray:
    """Return the wet pixels that touch a dry one."""
    rows, columns = np.arange(wet.shape[0]), np.arange(wet.shape[1])
    inner = wet.copy()
    for step in (-1, 1):
        inner &= wet[edge(rows + step, len(rows))] & wet[:, edge(columns + step, len(columns))]
    return wet & ~inner


def _distance(outline: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the nearest pixel of `outline`; where far away, at least `_FAR`."""
    squares = np.where(outline, 0.0, _FAR**2)
    for axis in (0, 1):
        margin = [(_FAR, _FAR) if axis == other else (0, 0) for other in (0, 1)]
        padded = np.pad(squares, margin, constant_values=np.inf)
        n = squares.shape[axis]
        shifted = (padded.take(range(_FAR + step, _FAR + step + n), axis) + step**2 for step in range(-_FAR, _FAR + 1))
        squares = np.minimum.reduce(list(shifted))
    return np.sqrt(squares)


def _blur(values: np.ndarray) -> np.ndarray:
    return convolve(values[..., None], _BOX, mirror_once)[..., 0]


def _bytes(values: np.ndarray) -> np.ndarray:
    return (values + 1e-6).astype(np.uint8)
