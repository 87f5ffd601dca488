"""Pictures to corrupt, and what is measured of them."""

import numpy as np

from timm_debias.corruptions.filters import gaussian


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def levels(*values) -> list[tuple]:
    """Return (severity, value) for severities 1 to 5."""
    return list(enumerate(values, 1))


def grey(value: float, size: int = 128) -> np.ndarray:
    return np.full((size, size, 3), round(255 * value), dtype=np.uint8)


def draw_photo() -> np.ndarray:
    """A picture with smooth areas, edges and colours, [96, 96, 3]."""
    y, x = np.mgrid[:96, :96] / 96
    fine = gaussian(rng(1).normal(size=(96, 96, 1)), 2)
    picture = np.stack([0.3 + 0.4 * x, 0.2 + 0.5 * y, 0.5 - 0.3 * x * y], axis=2) + 0.7 * fine
    picture[20:60, 30:70] = [0.7, 0.3, 0.2]
    return (255 * np.clip(picture, 0, 1)).astype(np.uint8)


def dot(size: int = 129) -> np.ndarray:
    image = np.zeros((size, size, 3))
    image[size // 2, size // 2] = 1
    return image


def moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and variance along y and x, relative to the middle."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] - image.shape[0] // 2
    weights = image[..., 0] / image[..., 0].sum()
    centre = np.array([(weights * y).sum(), (weights * x).sum()])
    return centre, np.array([(weights * y**2).sum(), (weights * x**2).sum()]) - centre**2
