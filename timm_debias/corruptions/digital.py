"""Digital corruptions: brightness, contrast, saturation, elastic distortion, pixels and JPEG."""

import io

import numpy as np
from PIL import Image

from .filters import gaussian, mirror, mirror_once, sample


def brightness(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Add `amount` to the value of HSV; hue and saturation stay."""
    value = image.max(axis=2, keepdims=True)
    brighter = np.clip(value + amount, 0, 1)
    return np.where(value > 0, image * brighter / np.where(value > 0, value, 1), brighter)


def contrast(image: np.ndarray, rng: np.random.Generator, factor: float) -> np.ndarray:
    """Shrink the distance to the mean of each channel to `factor` of itself."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    return (image - mean) * factor + mean


def saturate(image: np.ndarray, rng: np.random.Generator, factor: float, shift: float) -> np.ndarray:
    """Scale and shift the saturation of HSV; hue and value stay. Grey has the hue of red."""
    value = image.max(axis=2, keepdims=True)
    spread = value - image.min(axis=2, keepdims=True)
    saturation = spread / np.where(value > 0, value, 1)
    wanted = np.clip(saturation * factor + shift, 0, 1)
    # How far below the value each channel lies, from 0 to 1 of the spread.
    depth = np.where(spread > 0, (value - image) / np.where(spread > 0, spread, 1), np.array([0.0, 1.0, 1.0]))
    return value * (1 - wanted * depth)


def elastic_transform(
    image: np.ndarray, rng: np.random.Generator, strength: float, sigma: float, affine: float
) -> np.ndarray:
    """Move three points by up to `affine` pixels along each axis, and the image with them; then bend it.

    Bending moves each pixel by `strength` times uniform noise in [−1, 1], smoothed with `sigma` pixels.
    """
    height, width = image.shape[:2]
    centre, arm = np.array([height // 2, width // 2]), min(height, width) // 3
    points = centre + arm * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = points + rng.uniform(-affine, affine, points.shape)
    # The map from where points went to where they came from.
    matrix = np.linalg.solve(np.column_stack([moved, np.ones(3)]), points)
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    from_y, from_x = (y * matrix[0, axis] + x * matrix[1, axis] + matrix[2, axis] for axis in (0, 1))
    image = sample(image, from_y, from_x, mirror_once)
    noise = rng.uniform(-1, 1, (height, width, 2))
    bend = strength * gaussian(noise, sigma, truncate=3.0, border=mirror)
    return sample(image, y + bend[..., 0], x + bend[..., 1], mirror)


def pixelate(image: np.ndarray, rng: np.random.Generator, factor: float) -> np.ndarray:
    """Shrink both sides to `factor` of themselves and enlarge again, with a box filter."""
    picture = _to_picture(image)
    small = picture.resize([int(side * factor) for side in picture.size], Image.Resampling.BOX)
    return np.asarray(small.resize(picture.size, Image.Resampling.BOX)) / 255


def jpeg_compression(image: np.ndarray, rng: np.random.Generator, quality: float) -> np.ndarray:
    """Write as JPEG of `quality` and read it again."""
    file = io.BytesIO()
    _to_picture(image).save(file, format='JPEG', quality=int(quality))
    with Image.open(file) as picture:
        return np.asarray(picture) / 255


def _to_picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(image * 255).astype(np.uint8))
