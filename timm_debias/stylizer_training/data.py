"""Random crops of a folder of images."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..data.images import images_below
from ..data.reading import BadImageError, decode_image
from ..errors import DebiasError
from ..stylizers.base import MIN_SIZE

_logger = logging.getLogger(__name__)

HELD_OUT_EVERY = 20
"""Every 20th image is held out, to measure on."""

_LEAST = 2 * HELD_OUT_EVERY
"""Images, so that a held-out one has another for its partner."""

_STORED_SIZE = 2
"""Images are kept with a shorter side of this many crops, so that crops differ in scale."""


class Crops:
    """Square crops of images, of random place, scale and direction, from an explicit generator.

    Args:
        paths: Image files; decoded once and kept in memory as bytes.
        size: Size of the crops in pixels.

    Raises:
        DebiasError: unreadable images, named, or ones smaller than 16 pixels.
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.size = size
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            self.images = list(pool.map(lambda path: _load(path, _STORED_SIZE * size), paths))

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return `count` crops of different images where there are as many, [count, 3, size, size] in [0, 1]."""
        chosen = torch.randperm(len(self.images), generator=generator)[:count].tolist()
        chosen += torch.randint(len(self.images), (count - len(chosen),), generator=generator).tolist()
        return torch.stack([self._crop(self.images[index], generator) for index in chosen])

    def _crop(self, image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        height, width = image.shape[-2:]
        scale, top, left, flip = torch.rand(4, generator=generator).tolist()
        side = round(self.size + scale * (min(height, width) - self.size))
        y, x = round(top * (height - side)), round(left * (width - side))
        crop = image[:, y : y + side, x : x + side].float() / 255
        crop = F.interpolate(crop[None], size=(self.size, self.size), mode='bilinear', antialias=True)[0]
        return crop.flip(-1) if flip < 0.5 else crop


def find_images(folders: Sequence[str], max_images: int, seed: int) -> tuple[list[Path], list[Path]]:
    """Return the images of the folders and their sub-folders as (training, held out), both sorted.

    Raises:
        DebiasError: a folder that is missing or has no images, or fewer than 40 images in all.
    """
    if max_images < _LEAST:
        raise DebiasError(f'--max-images is {max_images}; expected at least {_LEAST}')
    paths = [path for folder in folders for path in images_below(folder, '--data-dir')]
    if len(paths) > max_images:
        chosen = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))[:max_images]
        _logger.info(f'Using {max_images:,} of {len(paths):,} images.')
        paths = [paths[index] for index in sorted(chosen.tolist())]
    if len(paths) < _LEAST:
        raise DebiasError(f'--data-dir: {len(paths)} images are too few; give at least {_LEAST}')
    held_out = paths[::HELD_OUT_EVERY]
    return [path for number, path in enumerate(paths) if number % HELD_OUT_EVERY], held_out


def _load(path: Path, shorter_side: int) -> torch.Tensor:
    try:
        image = decode_image(path)
    except BadImageError as error:
        raise DebiasError(f'unreadable image: {path} ({error}); mend or remove it') from error
    if min(image.size) < MIN_SIZE:
        raise DebiasError(f'{path}: {image.width}×{image.height} pixels; at least {MIN_SIZE}×{MIN_SIZE} are needed')
    factor = shorter_side / min(image.size)
    size = (max(shorter_side, round(image.width * factor)), max(shorter_side, round(image.height * factor)))
    return torch.from_numpy(np.array(image.resize(size, Image.Resampling.BICUBIC))).permute(2, 0, 1).contiguous()
