"""Filters that several corruptions share, on float arrays [H, W, C].

No matrix products: their rounding depends on the number of threads, and a benchmark must not.
"""

import math
from collections.abc import Callable

import numpy as np

Fold = Callable[[np.ndarray, int], np.ndarray]
"""(positions, n) -> positions inside [0, n): how an image goes on beyond its border."""


def edge(index: np.ndarray, n: int) -> np.ndarray:
    """Repeat the outermost pixel."""
    return np.clip(index, 0, n - 1)


def mirror(index: np.ndarray, n: int) -> np.ndarray:
    """Reflect about the outer edge of the outermost pixel, which comes twice: d c b a | a b c d."""
    index = index % (2 * n)
    return np.where(index < n, index, 2 * n - 1 - index)


def mirror_once(index: np.ndarray, n: int) -> np.ndarray:
    """Reflect about the centre of the outermost pixel, which comes once: d c b | a b c d."""
    index = index % (2 * n - 2)
    return np.where(index < n, index, 2 * n - 2 - index)


def gaussian(image: np.ndarray, sigma: float, truncate: float = 4.0, border: Fold = edge) -> np.ndarray:
    """Smooth over height and width with a Gaussian of `sigma` pixels, cut off at `truncate` · sigma and normalised."""
    radius = int(truncate * sigma + 0.5)
    kernel = np.exp(-0.5 * np.square(np.arange(-radius, radius + 1) / sigma))
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = _pad(np.moveaxis(image, axis, 0), radius, 0, border)
        spectrum = np.fft.rfft(padded, axis=0) * np.fft.rfft(kernel, len(padded))[:, None, None]
        image = np.moveaxis(np.fft.irfft(spectrum, len(padded), axis=0)[2 * radius :], 0, axis)
    return image


def convolve(image: np.ndarray, kernel: np.ndarray, border: Fold) -> np.ndarray:
    """Convolve over height and width with a `kernel` [K, K], K odd."""
    radius = len(kernel) // 2
    padded = _pad(_pad(image, radius, 0, border), radius, 1, border)
    shape = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel, shape)[..., None]
    result = np.fft.irfft2(spectrum, shape, axes=(0, 1))
    return result[2 * radius :, 2 * radius :]


def _pad(image: np.ndarray, radius: int, axis: int, border: Fold) -> np.ndarray:
    n = image.shape[axis]
    return image.take(border(np.arange(-radius, n + radius), n), axis)


def smear(image: np.ndarray, radius: int, sigma: float, degrees: float) -> np.ndarray:
    """Blur as if the image moved: half a Gaussian along a line, as ImageMagick's motion blur does it.

    2 · radius + 1 samples of the nearest pixels in steps of one pixel along `degrees`, weighted with
    exp(−step² / 2 sigma²); the image is repeated beyond its border.
    """
    height, width = image.shape[:2]
    weights = np.exp(-np.square(np.arange(2 * radius + 1)) / (2 * sigma**2))
    weights /= weights.sum()
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    result = np.zeros_like(image)
    for step, weight in enumerate(weights):
        rows = edge(np.arange(height) + math.ceil(step * sine - 0.5), height)
        columns = edge(np.arange(width) + math.ceil(step * cosine - 0.5), width)
        result += weight * image[rows[:, None], columns]
    return result


def sample(image: np.ndarray, y: np.ndarray, x: np.ndarray, border: Fold) -> np.ndarray:
    """Return [H', W', C]: the image at the places `y`, `x`, broadcastable to [H', W'], by bilinear interpolation."""
    height, width = image.shape[:2]
    top, left = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    down, right = (y - top)[..., None], (x - left)[..., None]
    rows, columns = (border(top, height), border(top + 1, height)), (border(left, width), border(left + 1, width))
    upper = image[rows[0], columns[0]] * (1 - right) + image[rows[0], columns[1]] * right
    lower = image[rows[1], columns[0]] * (1 - right) + image[rows[1], columns[1]] * right
    return upper * (1 - down) + lower * down


def enlarge(image: np.ndarray, factor: float) -> np.ndarray:
    """Return the middle of the image, enlarged by `factor` ≥ 1 to the size of the whole, bilinear."""
    y, x = (_enlarged_places(side, factor) for side in image.shape[:2])
    return sample(image, y[:, None], x[None, :], edge)


def _enlarged_places(n: int, factor: float) -> np.ndarray:
    # The corners of the part that is cut out become the corners of the enlargement, which may be too large by a pixel.
    part = math.ceil(n / factor)
    enlarged = round(part * factor)
    places = np.arange(enlarged) * ((part - 1) / (enlarged - 1)) + (n - part) // 2
    surplus = (enlarged - n) // 2
    return places[surplus : surplus + n]


def plasma(size: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Return a random field [size', size'] in [0, 1] by the diamond-square algorithm, periodic at its borders.

    Args:
        size: Least side; size' is the next power of two.
        decay: From one level to the next, twice as fine, the random part becomes decay² times smaller.
        rng: Source of the field.
    """
    field, amplitude = np.zeros((1, 1)), 1.0
    while len(field) < size:
        n = len(field)
        centre = _mean(field, np.roll(field, -1, 0), np.roll(field, -1, 1), np.roll(field, (-1, -1), (0, 1)))
        centre += amplitude * rng.uniform(-1, 1, (n, n))
        above = _mean(field, np.roll(field, -1, 1), centre, np.roll(centre, 1, 0))
        left = _mean(field, np.roll(field, -1, 0), centre, np.roll(centre, 1, 1))
        finer = np.empty((2 * n, 2 * n))
        finer[::2, ::2], finer[1::2, 1::2] = field, centre
        finer[::2, 1::2] = above + amplitude * rng.uniform(-1, 1, (n, n))
        finer[1::2, ::2] = left + amplitude * rng.uniform(-1, 1, (n, n))
        field, amplitude = finer, amplitude / decay**2
    field -= field.min()
    return field / field.max()


def _mean(*fields: np.ndarray) -> np.ndarray:
    return sum(fields[1:], fields[0]) / len(fields)
