"""Checks of image folders before any work is done on them."""

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data.dataset_factory import _search_split
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_folder import ReaderImageFolder

from ..errors import DebiasError, is_of_the_machine, reason
from .reading import check_depth

_logger = logging.getLogger(__name__)

MAX_DECODED = 20_000
"""Data sets above this number of images are checked on a sample of this size: decoding ImageNet takes hours."""


def check_split(root: str, split: str) -> None:
    """Raise `DebiasError` where `root` has no folder for a split of an unusual name.

    timm reads `root` itself where there is none: meant for `--data-dir imagenet/val`, wrong for a misspelt split.
    """
    usual = ('train', 'training', 'val', 'valid', 'validation', 'eval', 'evaluation')
    if os.path.isdir(root) and split not in usual and split_dir(root, split) == os.path.realpath(root):
        raise DebiasError(f"{root} has no folder for the split '{split}' (folders there: {_folders(root)})")


def check_splits_differ(root: str, train_split: str, val_split: str) -> None:
    """Raise `DebiasError` where both splits would read the same images, because `root` has no folders for them."""
    if not os.path.isdir(root):
        return
    train_dir, val_dir = split_dir(root, train_split), split_dir(root, val_split)
    if train_dir == val_dir:
        raise DebiasError(
            f"--train-split '{train_split}' and --val-split '{val_split}' both read {train_dir} (folders there: "
            f'{_folders(root)}); name two folders of --data-dir, or give --val-split "" to train without validation'
        )


def check_no_link_loops(folder: str) -> None:
    """Raise `DebiasError` where a link below `folder` leads back to a folder above it.

    timm follows links: it would read the same images up to 40 times, or, with several such links, not come to an end.
    """
    pending: list[tuple[str, tuple[str, ...]]] = [(folder, (os.path.realpath(folder),))]
    while pending:
        current, above = pending.pop()
        with os.scandir(current) as entries:
            for entry in entries:
                if not _is_folder(entry):
                    continue
                target = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
                if entry.is_symlink() and any(
                    os.path.join(path, '').startswith(os.path.join(target, '')) for path in above
                ):
                    raise DebiasError(f'{entry.path} is a link to a folder that it lies in ({target}): remove the link')
                pending.append((entry.path, (*above, target)))


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself, for example: no folder, and no image either.
        return False


def split_dir(root: str, split: str) -> str:
    """Return the folder that timm reads for a split of an image folder."""
    return os.path.realpath(_search_split(root, split))


def _folders(root: str) -> str:
    return ', '.join(sorted(entry.name for entry in os.scandir(root) if entry.is_dir())[:8]) or 'none'


def check_image_folder(dataset: Any, decode: bool = True) -> None:
    """Check a timm `ImageDataset` over class folders: no image outside them, no empty class, every image readable.

    Other data sets pass unchecked. At most `MAX_DECODED` images are decoded, a fixed sample where there are more,
    which the log says.

    Args:
        dataset: The data set.
        decode: Whether an unreadable image is a mistake.

    Raises:
        DebiasError: names the images without a class, the empty folders or the unreadable images.
    """
    reader = getattr(dataset, 'reader', None)
    if not isinstance(reader, ReaderImageFolder):
        return
    if '' in reader.class_to_idx:  # timm takes them for one more class, which shifts the numbers of the others.
        loose = [path for path, _ in reader.samples if Path(path).parent == Path(reader.root)]
        raise DebiasError(
            f'{reader.root} holds {len(loose):,} images without class folders, such as {Path(loose[0]).name}, so that '
            'their classes are unknown; move each into a folder named by its class'
        )
    _check_no_empty_class(Path(reader.root))
    if not decode:
        return
    paths = [path for path, _ in reader.samples]
    if len(paths) > MAX_DECODED:
        chosen = np.random.default_rng(0).choice(len(paths), MAX_DECODED, replace=False)
        _logger.info(f'{reader.root}: checking {MAX_DECODED:,} of {len(paths):,} images.')
        paths = [paths[index] for index in chosen]
    check_images(paths)


def check_images(paths: Sequence[str]) -> None:
    """Decode the images and raise a `DebiasError` that names those that fail.

    Raises:
        DebiasError: unreadable images.
        OSError: the machine, not a file, is at fault: too many open files, no memory, a lost file server.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = [error for error in pool.map(_decode_error, paths) if error]
    if errors:
        more = f' and {len(errors) - 3} more' if len(errors) > 3 else ''
        raise DebiasError(f'unreadable images: {"; ".join(errors[:3])}{more}; mend or remove them')


def check_same_classes(train: Any, validation: Any) -> None:
    """Raise `DebiasError` where two sets of images give different numbers to their classes."""
    ours, theirs = class_names(train), class_names(validation)
    if ours is None or theirs is None or ours == theirs:
        return
    only_train, only_validation = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    differences = [
        f'only in {where}: {", ".join(names[:5])}{", …" if len(names) > 5 else ""}'
        for where, names in (('training', only_train), ('validation', only_validation))
        if names
    ]
    raise DebiasError(
        f'training and validation have different class folders ({"; ".join(differences)}): {_root(train)}, '
        f'{_root(validation)}; both need a folder of images for each class'
    )


def _root(dataset: Any) -> Any:
    return getattr(dataset, 'reader', dataset).root


def class_names(dataset: Any) -> list[str] | None:
    """Return the class names of an image folder or embedded data set, by index; None where it has none."""
    class_to_idx = getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', None)
    return sorted(class_to_idx, key=class_to_idx.__getitem__) if class_to_idx else None


def _check_no_empty_class(root: Path) -> None:
    extensions = get_img_extensions(as_set=True)
    empty = [folder for folder in _leaf_folders(root) if not _has_image(folder, extensions)]
    if empty:
        names = ', '.join(str(folder) for folder in sorted(empty)[:3])
        more = f' and {len(empty) - 3} more' if len(empty) > 3 else ''
        raise DebiasError(f'class folders without images: {names}{more}; fill or remove them')


def _leaf_folders(root: Path) -> Iterable[Path]:
    for folder, children, _ in os.walk(root, followlinks=True):
        if not children and Path(folder) != root:
            yield Path(folder)


def _has_image(folder: Path, extensions: set[str]) -> bool:
    with os.scandir(folder) as entries:
        return any(os.path.splitext(entry.name)[1].lower() in extensions for entry in entries)


def _decode_error(path: str) -> str | None:
    try:
        with Image.open(path) as image:
            check_depth(image)
            # Draft mode lets libjpeg decode at an eighth of the size; it still reads the file to its end.
            image.draft('RGB', (image.width // 8 + 1, image.height // 8 + 1))
            image.load()
    except Exception as error:  # Image decoders raise almost anything on a broken file.
        if is_of_the_machine(error):
            raise
        return f'{path} ({reason(error)})'
    return None
