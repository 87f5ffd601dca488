"""The embedded data set `shapes_textures`: images with a shape and a texture, drawn by code.

In the splits `train`, `validation` and `test` shape k always comes with texture k, so that both cues tell the class;
the split `conflict` pairs shape i with texture j ≠ i. How a model decides there shows which cue it has learned to
trust.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from ..errors import DebiasError, did_you_mean
from .silhouettes import SHAPES, Pose, draw_silhouette
from .textures import BLOBS_LATTICE, TEXTURES, Weave, draw_texture, smooth_noise

SHAPE_NAMES = tuple(SHAPES)
TEXTURE_NAMES = tuple(TEXTURES)
CLASSES = tuple(f'{shape}+{texture}' for shape, texture in zip(SHAPE_NAMES, TEXTURE_NAMES, strict=True))
SPLIT_SIZES = {'train': 2400, 'validation': 800, 'conflict': 1120, 'test': 800}
MIN_SIZE, MAX_SIZE = 32, 224
KEPT_BYTES = 2**26
"""Data sets up to this size, all images together, are drawn once and kept: later epochs cost nothing."""

_GRAIN_LATTICE = 64  # Grain has the size of a pixel at 64 px and keeps that size at others: equally hard at all sizes.
_CLOUDS_LATTICES = (4, 9)


@dataclass(frozen=True)
class Difficulty:
    """How hard the two cues are to read: ranges from which every image draws uniformly.

    The defaults were calibrated with plain training only; see docs/shapes_textures.md. Intensities are on the scale
    [0, 1], lengths in image units (the image is 2 wide).
    """

    texture_contrast: tuple[float, float] = (0.3, 0.7)  # Between the two tones of a texture.
    texture_period: tuple[float, float] = (0.16, 0.32)
    shape_contrast: tuple[float, float] = (0.1, 0.3)  # Between the mean of the silhouette and the background.
    shape_area: tuple[float, float] = (0.26, 0.42)  # Share of the image.
    shape_stretch: tuple[float, float] = (0.85, 1.18)
    shape_angle: tuple[float, float] = (-0.6, 0.6)  # Radians.
    clouds_share: float = 0.5  # Share of images with a textured rather than a plain background.
    clouds_contrast: tuple[float, float] = (0.05, 0.2)
    illumination: tuple[float, float] = (-0.15, 0.15)  # Slope of brightness from the centre to each border.
    grain: tuple[float, float] = (0.01, 0.03)  # Standard deviation of the noise.


@dataclass(frozen=True, eq=False)
class Scene:
    """All that one image shows, at no particular size. Colours are [3] float32 RGB in [0, 1]."""

    shape: str
    texture: str
    pose: Pose
    weave: Weave
    background: np.ndarray
    tones: tuple[np.ndarray, np.ndarray]
    clouds: tuple[np.ndarray, ...]
    illumination: tuple[float, float]
    grain: np.ndarray


def sample_scene(shape: str, texture: str, rng: np.random.Generator, difficulty: Difficulty) -> Scene:
    """Draw all random parameters of an image of `shape` filled with `texture`; nothing else depends on the two."""

    def between(limits: tuple[float, float]) -> float:
        return float(rng.uniform(*limits))

    pose = Pose(
        x=between((-1, 1)),
        y=between((-1, 1)),
        angle=between(difficulty.shape_angle),
        area=between(difficulty.shape_area),
        stretch=between(difficulty.shape_stretch),
    )
    weave = Weave(
        period=between(difficulty.texture_period),
        angle=between((0, 2 * math.pi)),
        phase=(between((0, BLOBS_LATTICE)), between((0, BLOBS_LATTICE))),
        lattice=rng.random((BLOBS_LATTICE, BLOBS_LATTICE), dtype=np.float32),
    )
    background, tones = _sample_colours(
        rng, between(difficulty.shape_contrast), between(difficulty.texture_contrast) * (-1) ** int(rng.integers(2))
    )
    depth = between(difficulty.clouds_contrast) if rng.random() < difficulty.clouds_share else 0.0
    clouds = tuple(
        depth * rng.uniform(-1, 1, (size, size, 1)).astype(np.float32) / octave
        for octave, size in enumerate(_CLOUDS_LATTICES, start=1)
    )
    grain = rng.standard_normal((_GRAIN_LATTICE, _GRAIN_LATTICE, 3), dtype=np.float32)
    return Scene(
        shape=shape,
        texture=texture,
        pose=pose,
        weave=weave,
        background=background,
        tones=tones,
        clouds=clouds if depth else (),
        illumination=(between(difficulty.illumination), between(difficulty.illumination)),
        grain=grain * np.float32(between(difficulty.grain)),
    )


def _sample_colours(
    rng: np.random.Generator, shape_contrast: float, texture_contrast: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the background's colour and the two tones of the texture, whose mean has the given contrast with it."""

    def tint() -> np.ndarray:
        colour = rng.uniform(-0.2, 0.2, 3).astype(np.float32)
        return colour - colour.mean(dtype=np.float32)

    level = float(rng.uniform(0.25, 0.75))
    sign = 1 if level + shape_contrast > 0.85 else -1 if level - shape_contrast < 0.15 else 0
    sign = -sign or (-1) ** int(rng.integers(2))
    figure = np.float32(level + sign * shape_contrast) + tint()
    step = np.float32(texture_contrast / 2) * (1 + 2 * tint())
    return np.float32(level) + tint(), (figure - step, figure + step)


def draw_scene(scene: Scene, img_size: int) -> np.ndarray:
    """Draw a scene.

    Returns:
        [img_size, img_size, 3] uint8 RGB, the same picture at every size.
    """
    pixel = 2 / img_size
    axis = (np.arange(img_size, dtype=np.float32) + np.float32(0.5)) * np.float32(pixel) - np.float32(1)
    x, y = axis[None, :], axis[:, None]
    inside = draw_silhouette(scene.shape, scene.pose, x, y, pixel)[..., None]
    ink = draw_texture(scene.texture, scene.weave, x, y, pixel)[..., None]
    background = scene.background
    for octave in scene.clouds:
        background = background + smooth_noise(octave, img_size)
    paper, pigment = scene.tones
    image = background + inside * (paper + ink * (pigment - paper) - background)
    image = image * (1 + np.float32(scene.illumination[0]) * x + np.float32(scene.illumination[1]) * y)[..., None]
    image = image + smooth_noise(scene.grain, img_size)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def check_split_name(split: str) -> None:
    """Raise `DebiasError` for a split that the data set has not."""
    if split not in SPLIT_SIZES:
        raise DebiasError(f"shapes_textures has no split '{split}'. {did_you_mean(split, SPLIT_SIZES)}")


class ShapesTextures(Dataset):
    """Images with a shape and a texture, drawn when first asked for, each from its own seed.

    An image depends on (seed, split, index, img_size) only; at another `img_size` it is the same picture at another
    resolution. Classes, and in `conflict` pairs of classes, follow each other in turn, so that any number of samples
    is balanced as nearly as possible.

    Args:
        split: 'train', 'validation' or 'test', where shape k always has texture k, or 'conflict', where it never has.
        img_size: Width and height in pixels, 32 to 224.
        seed: Draws another data set of the same kind.
        num_samples: Number of images; `SPLIT_SIZES` where None.
        transform: Applied to the PIL RGB image.
        target_transform: Applied to the target.
        difficulty: Contrasts, scales and noise; the defaults are the data set, others are for calibration.

    Raises:
        DebiasError: unknown split, or a size, seed or number of samples out of range.
    """

    def __init__(
        self,
        split: str = 'train',
        img_size: int = 64,
        seed: int = 0,
        num_samples: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        difficulty: Difficulty | None = None,
    ) -> None:
        check_split_name(split)
        if not MIN_SIZE <= img_size <= MAX_SIZE:
            raise DebiasError(f'shapes_textures draws images of {MIN_SIZE} to {MAX_SIZE} pixels, not {img_size}')
        if seed < 0:
            raise DebiasError(f'the seed of shapes_textures is {seed}; it must not be negative')
        size = SPLIT_SIZES[split] if num_samples is None else num_samples
        if size <= 0:
            raise DebiasError(f'shapes_textures needs at least 1 sample, not {size}')
        self.split = split
        self.img_size = img_size
        self.seed = seed
        self.transform = transform
        self.target_transform = target_transform
        self.difficulty = difficulty or Difficulty()
        self._keep = 3 * img_size**2 * size <= KEPT_BYTES
        self._drawn: dict[int, np.ndarray] = {}
        self.classes = list(CLASSES)
        self.num_classes = len(CLASSES)
        self.class_to_idx = {name: index for index, name in enumerate(CLASSES)}
        k = self.num_classes
        self.shape_labels = [index % k for index in range(size)]
        # Conflict: 56 pairs in turn, texture 1 to 7 classes ahead of the shape.
        ahead = [1 + index // k % (k - 1) if split == 'conflict' else 0 for index in range(size)]
        self.texture_labels = [(shape + offset) % k for shape, offset in zip(self.shape_labels, ahead, strict=True)]

    def __len__(self) -> int:
        return len(self.shape_labels)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return the image and its target: the class, or for `conflict` [shape, texture], a [2] int64 tensor."""
        image: Any = Image.fromarray(self._draw(index))
        target: Any = self.shape_labels[index]
        if self.split == 'conflict':
            target = torch.tensor([target, self.texture_labels[index]])
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target

    def _draw(self, index: int) -> np.ndarray:
        drawn = self._drawn.get(index)
        if drawn is None:
            drawn = draw_scene(self.scene(index), self.img_size)
            if self._keep:
                self._drawn[index] = drawn
        return drawn

    def scene(self, index: int) -> Scene:
        """Return what image `index` shows, whatever its size.

        Raises:
            IndexError: index outside [0, len).
        """
        if not 0 <= index < len(self):
            raise IndexError(f'shapes_textures, {self.split}: no image {index} of {len(self)}')
        rng = np.random.default_rng([self.seed, list(SPLIT_SIZES).index(self.split), index])
        shape, texture = SHAPE_NAMES[self.shape_labels[index]], TEXTURE_NAMES[self.texture_labels[index]]
        return sample_scene(shape, texture, rng, self.difficulty)

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        """Return a name for image `index`, such as 'conflict/star+dots/00012', for tables of predictions."""
        del absolute  # Part of timm's signature; nothing lies on a disk.
        shape, texture = SHAPE_NAMES[self.shape_labels[index]], TEXTURE_NAMES[self.texture_labels[index]]
        return f'{index:05d}' if basename else f'{self.split}/{shape}+{texture}/{index:05d}'

    def filenames(self, basename: bool = False, absolute: bool = False) -> list[str]:
        """Return the names of all images."""
        return [self.filename(index, basename, absolute) for index in range(len(self))]
