"""Textures of `shapes_textures`: eight two-tone patterns, and class-neutral smooth noise.

As in `silhouettes`, only exactly rounded operations are applied per pixel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BLOBS_LATTICE = 24


@dataclass(frozen=True, eq=False)
class Weave:
    """How a texture lies on the image.

    Attributes:
        period: Length in image units (the image is 2 wide) after which the pattern repeats.
        angle: Rotation in radians.
        phase: Shift along the two axes of the pattern, in periods.
        lattice: [BLOBS_LATTICE, BLOBS_LATTICE] float32 in [0, 1): the random values of the texture `blobs`.
    """

    period: float
    angle: float
    phase: tuple[float, float]
    lattice: np.ndarray


# Each pattern maps coordinates in periods to a signed distance in periods, negative on the ink.


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _wave(u) - 0.25


def _checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = _wave(u) - 0.25, _wave(v) - 0.25
    return np.maximum(np.minimum(a, b), -np.maximum(a, b))


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = _wave(u), _wave(v)
    return np.sqrt(a * a + b * b) - 0.36


def _zigzag(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (_wave(u + 1.2 * _wave(v)) - 0.25) * 0.65


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    v = 2 * v
    row = np.floor(v)
    mortar = np.minimum((0.5 - _wave(v)) * 0.5, 0.5 - _wave(u + 0.5 * row))
    return mortar - 0.08


def _scales(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # Rows of discs, shifted by half a disc, each row covering the one above it; every disc carries two arcs.
    row = np.floor(v)
    below = v - row
    upper = _wave(u + 0.5 * row)
    lower = 0.5 - upper
    to_lower = np.sqrt(lower * lower + 0.25 * (1 - below) * (1 - below))
    to_upper = np.sqrt(upper * upper + 0.25 * below * below)
    radius = np.where(to_lower < 0.5, to_lower, to_upper)
    return (_wave(4 * radius + 0.75) - 0.25) * 0.25


def _basket(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # A chess board whose fields carry stripes along one axis or the other.
    odd = _wave(0.5 * (np.floor(2 * u) + np.floor(2 * v))) < 0.25
    return (_wave(4 * np.where(odd, u, v)) - 0.25) * 0.25


TEXTURES: dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray] | None, float]] = {
    # Pattern, and by how much its period is longer than that of stripes, so that details have one size in all.
    'stripes': (_stripes, 1.0),
    'checks': (_checks, 1.3),
    'dots': (_dots, 1.1),
    'zigzag': (_zigzag, 1.2),
    'bricks': (_bricks, 1.5),
    'scales': (_scales, 2.0),
    'basket': (_basket, 2.6),
    'blobs': (None, 0.7),  # Random rather than periodic: drawn from the lattice of `Weave`.
}


def draw_texture(texture: str, weave: Weave, x: np.ndarray, y: np.ndarray, pixel: float) -> np.ndarray:
    """Return how much of each pixel is ink.

    Args:
        texture: A key of `TEXTURES`.
        weave: Period, rotation and shift of the pattern.
        x: Pixel centres, broadcastable with `y` to [H, W], float32; the image spans [-1, 1].
        y: Pixel centres from top to bottom.
        pixel: Width of a pixel in the same units; edges blend over it.

    Returns:
        [H, W] float32 in [0, 1].
    """
    pattern, stretch = TEXTURES[texture]
    period = weave.period * stretch
    cos, sin = math.cos(weave.angle) / period, math.sin(weave.angle) / period
    u, v = x * cos + y * sin + weave.phase[0], y * cos - x * sin + weave.phase[1]
    distance = pattern(u, v) if pattern else _lattice_noise(weave.lattice, u, v) - 0.5
    return np.clip(0.5 - distance * (period / pixel), 0, 1)


def smooth_noise(lattice: np.ndarray, img_size: int) -> np.ndarray:
    """Stretch random values over an image by bilinear interpolation between pixel centres.

    Args:
        lattice: [n, n, C] float32.
        img_size: Width and height of the result.

    Returns:
        [img_size, img_size, C] float32. The same picture at every size; at n it is the lattice itself.
    """
    n = lattice.shape[0]
    place = np.clip((np.arange(img_size, dtype=np.float32) + 0.5) * (n / img_size) - 0.5, 0, n - 1)
    low = np.minimum(np.floor(place), n - 2).astype(np.intp)
    share = (place - low).astype(np.float32)[:, None, None]
    rows = lattice[low] + share * (lattice[low + 1] - lattice[low])
    columns = np.ascontiguousarray(rows.transpose(1, 0, 2))
    return (columns[low] + share * (columns[low + 1] - columns[low])).transpose(1, 0, 2)


def _lattice_noise(lattice: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    n = lattice.shape[0]
    column, row = np.floor(u), np.floor(v)
    across, down = _ease(u - column), _ease(v - row)
    i, j = row.astype(np.intp) % n, column.astype(np.intp) % n
    below, right = (i + 1) % n, (j + 1) % n
    top = lattice[i, j] + across * (lattice[i, right] - lattice[i, j])
    bottom = lattice[below, j] + across * (lattice[below, right] - lattice[below, j])
    return top + down * (bottom - top)


def _ease(share: np.ndarray) -> np.ndarray:
    return share * share * (3 - 2 * share)


def _wave(u: np.ndarray) -> np.ndarray:
    """Return a triangle wave of period 1 in [0, 0.5]: the distance from the middle of the period."""
    return np.abs(u - np.floor(u) - 0.5)
