"""The images a benchmark is made from: found, checked, fingerprinted and read."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, resize

from ..data.checks import split_dir
from ..data.images import images_below
from ..errors import DebiasError


@dataclass(frozen=True)
class Source:
    """An image folder.

    Attributes:
        root: Folder of the class folders.
        classes: Class -> sorted names of its files.
    """

    root: Path
    classes: dict[str, list[str]]

    @property
    def names(self) -> list[str]:
        """The images as 'class/file', sorted by class and file."""
        return [f'{name}/{file}' for name, files in self.classes.items() for file in files]


def find_source(data_dir: str | None, split: str | None) -> Source:
    """Find the images of a folder of class folders.

    Raises:
        DebiasError: no such folder or split, no class folders, a class folder that is empty or holds folders, or two
            files of a class that differ in their suffix only.
    """
    if data_dir is None:
        raise DebiasError('no --data-dir: name a folder of class folders')
    if not os.path.isdir(data_dir):
        raise DebiasError(f"--data-dir '{data_dir}': no such folder")
    root = Path(os.path.realpath(data_dir))
    if split is not None:
        folder = Path(split_dir(data_dir, split))
        if folder == root:
            raise DebiasError(f"--data-dir '{data_dir}' has no folder for --split '{split}' ({_list(_folders(root))})")
        root = folder
    classes = {folder: _class_images(root / folder, root) for folder in _folders(root)}
    if not classes:
        raise DebiasError(f'{root} has no class folders; expected images in folders named after their class')
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise DebiasError(f'{root}: class folders without images: {_list(empty)}; fill or remove them')
    return Source(root, classes)


def find_styles(style_dir: str) -> list[str]:
    """Return the images of a folder and its sub-folders, as sorted paths relative to it.

    Raises:
        DebiasError: no such folder, or no images in it.
    """
    return sorted(path.relative_to(style_dir).as_posix() for path in images_below(style_dir, '--style-dir'))


def fingerprint(root: Path, names: Iterable[str]) -> str:
    """Return a SHA-256, in hex, over path below `root`, size and SHA-256 of the content of each file."""
    digest = hashlib.sha256()
    names = sorted(names)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, line in zip(names, pool.map(lambda name: _file_line(root / name), names), strict=True):
            digest.update(f'{name}\0{line}\n'.encode())
    return digest.hexdigest()


def read_square(path: Path, resize_to: int, img_size: int) -> Image.Image:
    """Return the centre square of `img_size` pixels of an image whose shorter side is first made `resize_to` pixels.

    Bilinear with antialiasing, RGB: how ImageNet-C and Stylized-ImageNet prepared their images.
    """
    with Image.open(path) as file:
        image = file.convert('RGB')
    return center_crop(resize(image, [resize_to], InterpolationMode.BILINEAR), [img_size])


def generator_for(*parts: object) -> np.random.Generator:
    """Return a generator that depends on `parts` alone, so that an image does not depend on the order of work."""
    digest = hashlib.sha256('\0'.join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, 'big'))


def _class_images(folder: Path, root: Path) -> list[str]:
    below = _folders(folder)
    if below:
        raise DebiasError(
            f'{folder} holds folders ({_list(below)}); expected images only. Where these are the class folders, '
            f'give --split {folder.relative_to(root)}'
        )
    extensions = get_img_extensions(as_set=True)
    files = sorted(
        entry.name
        for entry in os.scandir(folder)
        if not entry.name.startswith('.') and os.path.splitext(entry.name)[1].lower() in extensions
    )
    by_stem: dict[str, str] = {}
    for file in files:
        other = by_stem.setdefault(os.path.splitext(file)[0], file)
        if other != file:
            raise DebiasError(f'{folder}: {other} and {file} would become one file of the benchmark; rename one')
    return files


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith('.'))


def _list(names: Sequence[str]) -> str:
    return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '') if names else 'none there'


def _file_line(path: Path) -> str:
    content = path.read_bytes()
    return f'{len(content)}\0{hashlib.sha256(content).hexdigest()}'
