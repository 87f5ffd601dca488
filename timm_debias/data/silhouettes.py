"""Silhouettes of `shapes_textures`: eight shapes as signed distances, drawn with a pose.

Per pixel only operations that IEEE 754 rounds exactly are used (+ - * / sqrt abs floor), so that every platform draws
the same bits. Coordinates: x to the right and y down, the image spans [-1, 1] on both axes.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]

_CROSS_ARM = 0.36
_STAR_INNER = 0.45
_CRESCENT_BITE = (0.55, 0.72)  # Offset and radius of the disc that is cut out.
_RING_HOLE = 0.5


@dataclass(frozen=True)
class Pose:
    """Where a silhouette lies: its centre, rotation, share of the image's area and stretch.

    Attributes:
        x: Centre in [-1, 1], as a share of the free space left and right of the silhouette.
        y: The same for top and bottom.
        angle: Rotation in radians.
        area: Share of the image that the silhouette covers, in (0, 1).
        stretch: Ratio of width to height before rotation; area is kept.
    """

    x: float
    y: float
    angle: float
    area: float
    stretch: float


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _length(x, y) - 1


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(y, math.sqrt(0.75) * np.abs(x) - 0.5 * y) - 0.5


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 1


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Mirroring folds the plane into the 36 degrees between a tip (0, 1) and the next inner corner; one edge is left.
    x, y = np.abs(x), -y
    for degrees in (108, 72, 36):
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        beyond = 2 * np.maximum(x * cos - y * sin, 0)
        x, y = x - beyond * cos, y + beyond * sin
    corner_x, corner_y = _STAR_INNER * math.sin(math.pi / 5), _STAR_INNER * math.cos(math.pi / 5)
    edge = math.hypot(corner_x, 1 - corner_y)
    return (x * (1 - corner_y) + (y - 1) * corner_x) / edge


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 1, np.minimum(x, y) - _CROSS_ARM)


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    offset, radius = _CRESCENT_BITE
    return np.maximum(_length(x, y) - 1, radius - _length(x - offset, y))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A square on its corner and a disc on each of its two upper sides.
    u, v = (y + x) * math.sqrt(0.5), (y - x) * math.sqrt(0.5)
    side = 0.6
    square = np.maximum(np.abs(u), np.abs(v))
    return np.minimum(square, np.minimum(_length(u + side, v), _length(u, v + side))) - side


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius = _length(x, y)
    return np.maximum(radius - 1, _RING_HOLE - radius)


SHAPES: dict[str, Distance] = {
    'disc': _disc,
    'triangle': _triangle,
    'square': _square,
    'star': _star,
    'cross': _cross,
    'crescent': _crescent,
    'heart': _heart,
    'ring': _ring,
}


def draw_silhouette(shape: str, pose: Pose, x: np.ndarray, y: np.ndarray, pixel: float) -> np.ndarray:
    """Return how much of each pixel lies inside the silhouette.

    Args:
        shape: A key of `SHAPES`.
        pose: Place, size and rotation.
        x: Pixel centres, broadcastable with `y` to [H, W], float32.
        y: Pixel centres from top to bottom.
        pixel: Width of a pixel in the same units; edges blend over it.

    Returns:
        [H, W] float32 in [0, 1].
    """
    area, radius = _measure(shape)
    scale = math.sqrt(4 * pose.area / area)
    width, height = scale * math.sqrt(pose.stretch), scale / math.sqrt(pose.stretch)
    free = max(0.0, 1 - radius * max(width, height))
    x, y = x - pose.x * free, y - pose.y * free
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    distance = SHAPES[shape]((x * cos + y * sin) / width, (y * cos - x * sin) / height)
    return np.clip(0.5 - distance * (scale / pixel), 0, 1)


@functools.cache
def _measure(shape: str) -> tuple[float, float]:
    """Return the area of a shape of scale 1 and the greatest distance of its points from the origin."""
    axis = (np.arange(512) - 255.5) / 256 * 1.5
    inside = SHAPES[shape](axis[None, :], axis[:, None]) < 0
    radius = _length(axis[None, :], axis[:, None])[inside].max()
    return float(inside.mean() * 9), float(radius)


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y)
