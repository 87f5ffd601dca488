"""Data sets by name: timm's, and the embedded one."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm.data
from timm.data import ImageDataset
from torch.utils.data import Dataset

from ..errors import DebiasError, did_you_mean, reason
from .checks import check_no_link_loops, check_split, split_dir
from .class_map import read_class_map
from .reading import CheckedImages
from .shapes_textures import ShapesTextures, check_split_name
from .shards import check_names_in_tar, check_shards

SHAPES_TEXTURES = 'shapes_textures'
_PACKAGES = {
    'torch': '',
    'hfds': 'datasets',
    'hfids': 'datasets',
    'tfds': 'tensorflow_datasets tensorflow',
    'wds': 'webdataset',
}
"""Prefix of a data set that timm has a reader for -> the packages that the reader needs."""


def create_dataset(
    name: str,
    root: str | None,
    split: str,
    img_size: int,
    num_samples: int | None = None,
    **options: Any,
) -> Dataset:
    """Create the data set that `--dataset` and `--data-dir` name.

    Its images are numbered or a stream. Numbered ones that cannot be read raise `BadImageError` where timm has a reader
    for them; those of `torch/…` raise what torchvision does.

    Args:
        name: `shapes_textures`, empty for a folder of class folders, or `<type>/<name>` as in timm.
        root: Root folder of the data.
        split: Split, and for folders the name of a sub-folder of `root`.
        img_size: Size in pixels at which `shapes_textures` draws its images.
        num_samples: Number of samples, for `shapes_textures` and iterable data sets.
        options: Further arguments of `timm.data.create_dataset`.

    Raises:
        DebiasError: unknown name, missing folder, a root for the data set that has none, or files in it that are not
            what they should be.
    """
    check_source(name, root, split)
    if name == SHAPES_TEXTURES:
        for flag, option in (('--class-map', 'class_map'), ('--epoch-repeats', 'repeats')):
            if options.get(option):
                raise DebiasError(f'{flag} does not go with --dataset {SHAPES_TEXTURES}, drawn by code: leave it out')
        return ShapesTextures(split, img_size=img_size, num_samples=num_samples)
    if options.get('class_map'):
        options['class_map'] = read_class_map(options['class_map'])
    if root and is_folder(name) and os.path.isdir(root):
        check_no_link_loops(split_dir(root, split))
    try:
        dataset = timm.data.create_dataset(name, root=root, split=split, num_samples=num_samples, **options)
    except Exception as error:  # Readers raise almost anything on files that are not theirs.
        where = os.path.join(root or '', split) if is_folder(name) else name
        raise DebiasError(f"data set '{where}': {reason(error)}") from error
    check_names_in_tar(dataset)
    return CheckedImages(dataset) if type(dataset) is ImageDataset else dataset


def check_source(name: str, root: str | None, split: str) -> None:
    """Check what `create_dataset` is told, as far as that is quick.

    Raises:
        DebiasError: unknown name or split, missing folder, or a root for the data set that has none.
    """
    if name == SHAPES_TEXTURES:
        if root:
            raise DebiasError(f'--dataset {SHAPES_TEXTURES} is drawn by code: leave --data-dir out')
        check_split_name(split)
        return
    if not name and not root:
        raise DebiasError(f'no data: give --data-dir DIR with class folders, or --dataset {SHAPES_TEXTURES}')
    if not is_folder(name):
        _check_reader(name, root)
        return
    if root is None or not Path(root).exists():
        raise DebiasError(f"--data-dir '{root}' does not exist")
    check_split(root, split)


def _check_reader(name: str, root: str | None) -> None:
    """Raise `DebiasError` for a data set that timm has no reader for, or whose reader cannot read it."""
    prefix = name.partition('/')[0].lower()
    if prefix not in _PACKAGES:
        known = [SHAPES_TEXTURES, *(f'{prefix}/…' for prefix in _PACKAGES)]
        raise DebiasError(f"unknown data set '{name}'. {did_you_mean(name, known)}")
    if prefix == 'wds':
        check_shards(root)
    missing = [package for package in _PACKAGES[prefix].split() if find_spec(package) is None]
    if missing:
        raise DebiasError(f"data set '{name}' is read by a package that is missing: pip install {' '.join(missing)}")


def is_folder(name: str) -> bool:
    """Return whether a data set of this name is a folder (or tar file) of class folders."""
    return not name or ('/' not in name and name == 'folder')
