"""Folders of images without labels: contents and styles."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions

from ..errors import DebiasError
from ..stylizers.base import MIN_SIZE
from .checks import check_images
from .reading import decode_image


def find_images(folder: str | None, flag: str) -> list[Path]:
    """Return the images of a folder and its sub-folders, sorted, each decoded once to see that it can be.

    Args:
        folder: Root of the images.
        flag: Name of the flag that names it, for the messages.

    Raises:
        DebiasError: no folder, no images in it, unreadable ones, or ones too small to stylise; the message names them.
    """
    if folder is None:
        raise DebiasError(f'no {flag}: name a folder of images')
    paths = images_below(folder, flag)
    check_readable(paths, MIN_SIZE)
    return paths


def images_below(folder: str, flag: str) -> list[Path]:
    """Return the images of a folder and its sub-folders, sorted, unread.

    Args:
        folder: Root of the images.
        flag: Name of the flag that names it, for the messages.

    Raises:
        DebiasError: no such folder, or no images in it.
    """
    if not Path(folder).is_dir():
        raise DebiasError(f"{flag} '{folder}': no such folder")
    extensions = get_img_extensions(as_set=True)
    paths = [path for path in sorted(Path(folder).rglob('*')) if path.suffix.lower() in extensions]
    if not paths:
        raise DebiasError(f"{flag} '{folder}' has no images ({', '.join(sorted(extensions))})")
    return paths


def check_readable(paths: Sequence[Path], min_size: int) -> None:
    """Raise `DebiasError` that names images which cannot be read, or one with a side below `min_size` pixels."""
    check_images([str(path) for path in paths])
    for path in paths:
        with Image.open(path) as image:
            if min(image.size) < min_size:
                size = f'{image.width}×{image.height}'
                raise DebiasError(f'{path}: {size} pixels; stylizers need at least {min_size}×{min_size}')


def read_image(path: Path, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Return an image as [3, H, W] in [0, 1]; where a `size` (H, W) is given, its largest centre crop at that size."""
    image = decode_image(path)
    if size is not None:
        height, width = size
        factor = max(width / image.width, height / image.height)
        scaled = (max(width, math.ceil(image.width * factor)), max(height, math.ceil(image.height * factor)))
        image = image.resize(scaled, Image.Resampling.BICUBIC)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
