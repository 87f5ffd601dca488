"""Class folders on the disk: found, checked against the official benchmark, and listed."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from timm.data.readers.img_extensions import get_img_extensions

from ...data.reading import decode_image
from ...errors import DebiasError
from .base import Setting

SIZE_SAMPLE = 200
"""Images of a part whose size is checked before anything runs; the others are checked as they are read."""


class FolderImages:
    """Image files below a folder.

    Args:
        root: The folder.
        files: Paths relative to it, with forward slashes, sorted.
        sizes: Sizes of the files in bytes.
    """

    def __init__(self, root: Path, files: Sequence[str], sizes: Sequence[int]) -> None:
        self.root = root
        # One block of memory: millions of str objects would be copied into every data worker.
        self._files = np.array([os.fsencode(file) for file in files], dtype=bytes)
        lines = (f'{file}\t{size}\n' for file, size in zip(files, sizes, strict=True))
        self.fingerprint = hashlib.sha256(''.join(lines).encode('utf-8', 'surrogateescape')).hexdigest()

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Image.Image:
        """Return an RGB image."""
        return decode_image(self.name(index))

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return os.path.join(self.root, self.file(index))

    def file(self, index: int) -> str:
        """Return the path of an image relative to `root`."""
        return os.fsdecode(self._files[index])


def find_folder(data_root: Path, folders: Sequence[str]) -> Path | None:
    """Return the first of `folders` that is there below `data_root`, None where none is."""
    return next((data_root / folder for folder in folders if (data_root / folder).is_dir()), None)


@dataclass(frozen=True)
class Listing:
    """Image files of class folders."""

    root: Path
    files: list[tuple[str, int, int]]
    """Path relative to `root`, size in bytes and class of each image, sorted."""

    partial: bool
    """Whether classes or images of the official benchmark are missing."""

    @property
    def classes(self) -> list[str]:
        """Names of the class folders that have images, sorted."""
        return sorted({file.partition('/')[0] for file, _, _ in self.files})

    def keep(self, condition: Callable[[str, int], bool]) -> 'Listing':
        """Return the listing of those whose path and class fulfil a condition."""
        return replace(self, files=[entry for entry in self.files if condition(entry[0], entry[2])])

    def images(self) -> FolderImages:
        """Return the images."""
        return FolderImages(self.root, [file for file, _, _ in self.files], [size for _, size, _ in self.files])

    def targets(self) -> torch.Tensor:
        """Return the classes [N]."""
        return torch.tensor([target for _, _, target in self.files])


def read_own_folders(root: Path, setting: Setting, what: str) -> Listing:
    """List the images of a user's own class folders: the classes of the model are the folders, sorted by name.

    Args:
        root: Holds a folder for each class.
        setting: Says what is known of the classes of the model.
        what: The benchmark, for errors.

    Raises:
        DebiasError: another number of class folders, another order of the same names, or a folder that is empty or
            holds folders.
    """
    names = own_classes(root)
    check_number(root, names, setting.num_classes, what)
    check_order(root, names, setting, what)
    files = []
    for index, name in enumerate(names):
        with os.scandir(root / name) as entries:
            nested = [entry.name for entry in entries if entry.is_dir()]
        images = list_images(root, name)
        if nested or not images:
            found = f'holds folders ({", ".join(sorted(nested)[:3])})' if nested else 'has no images'
            raise DebiasError(f'{what}: {root / name} {found}; expected the images of a class')
        files += [(file, size, index) for file, size in images]
    return Listing(root, files, partial=False)


def own_classes(root: Path) -> list[str]:
    """Return the names of the class folders of a user's own images, sorted."""
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.'))


def check_number(root: Path, names: Sequence[str], num_classes: int, what: str) -> None:
    """Raise `DebiasError` where there is not one class folder for each class of the model."""
    if len(names) != num_classes:
        raise DebiasError(
            f'{what}: {root} has {len(names)} class folders and the model {num_classes} classes; expected a folder for '
            'each class of the training data'
        )


def check_order(root: Path, names: Sequence[str], setting: Setting, what: str) -> None:
    """Raise `DebiasError` where the model says that its classes have these names, but in another order."""
    known = list(setting.class_names)
    if known != names and sorted(known) == names:
        place = next(index for index, name in enumerate(known) if name != names[index])
        raise DebiasError(
            f'{what}: {root} has the classes of the model, but sorted by name they are in another order: class {place} '
            f"of the model is '{known[place]}' by the label_names of its configuration, and folder {place} is "
            f"'{names[place]}'; rename the folders so that they sort like the classes of the model"
        )


def read_class_folders(
    root: Path, classes: Mapping[str, int], num_images: int, what: str, allow_partial: bool
) -> Listing:
    """List the images of class folders, and check them against the official benchmark.

    Args:
        root: Holds a folder for each class.
        classes: Expected names of the folders, and the class index of each.
        num_images: Official number of images.
        what: The benchmark, for errors.
        allow_partial: Accept missing classes and images.

    Raises:
        DebiasError: no class folders, unknown ones, or other numbers of classes or images than the official ones.
    """
    found = check_class_folders(root, classes, what)
    files = [(file, size, classes[name]) for name in found for file, size in list_images(root, name)]
    partial = len(found) != len(classes) or len(files) != num_images
    if partial and not allow_partial:
        raise DebiasError(
            f'{what}: {root} has {len(files):,} images in {len(found)} class folders, expected {num_images:,} in '
            f'{len(classes)}; complete it, or give --allow-partial to measure what is there'
        )
    if not files:
        raise DebiasError(f'{what}: {root} has class folders without images')
    return Listing(root, files, partial)


def check_class_folders(root: Path, classes: Mapping[str, int], what: str) -> list[str]:
    """Return the sorted names of the class folders of `root`.

    Raises:
        DebiasError: images without class folders, or folders that are no class of the benchmark.
    """
    with os.scandir(root) as entries:
        folders, files = [], 0
        for entry in entries:
            if entry.is_dir() and not entry.name.startswith('.'):
                folders.append(entry.name)
            files += _is_image(entry.name)
    example = next(iter(classes))
    if not folders and files:
        raise DebiasError(
            f'{what}: {root} holds {files:,} images without class folders, so that their classes are unknown; move '
            f'each into a folder named by its class, such as {example} (for ImageNet, the classes are in '
            'ILSVRC2012_validation_ground_truth.txt of the development kit)'
        )
    unknown = sorted(set(folders) - set(classes))
    if unknown or not folders:
        names = f'{", ".join(unknown[:5])}{", …" if len(unknown) > 5 else ""}' if folders else 'none'
        raise DebiasError(
            f'{what}: {root} has {len(unknown)} folders that are none of the {len(classes)} classes expected '
            f'({names}); expected folders such as {example}'
        )
    return sorted(folders)


def list_images(root: Path, folder: str) -> list[tuple[str, int]]:
    """Return path relative to `root` and size in bytes of each image in a folder of `root`, sorted.

    Raises:
        DebiasError: a link to a file that is not there.
    """
    with os.scandir(root / folder) as entries:
        return sorted((f'{folder}/{entry.name}', _size(entry)) for entry in entries if _is_image(entry.name))


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except OSError as error:
        raise DebiasError(f'{entry.path} cannot be read: {error.strerror or error}; mend or remove it') from error


def check_sizes(images: FolderImages, size: int, what: str) -> None:
    """Check the size of up to `SIZE_SAMPLE` images, spread evenly; those that cannot be read pass.

    Raises:
        DebiasError: an image that is not `size` × `size`.
    """
    step = max(1, -(-len(images) // SIZE_SAMPLE))
    for index in range(0, len(images), step):
        try:
            with Image.open(images.name(index)) as image:
                found = image.size
        except (OSError, UnidentifiedImageError):
            continue  # Named when it is read, where --on-error decides.
        if found != (size, size):
            raise DebiasError(f'{what}: {images.name(index)} {size_error(found, size)}')


def size_error(found: tuple[int, int], size: int) -> str:
    """Return what to say, after its name, of an image that has not the published size."""
    return (
        f'is {found[0]}×{found[1]} pixels, expected {size}×{size}; this benchmark is measured on its images as '
        'published, without resizing, so these are not they'
    )


_EXTENSIONS = tuple(get_img_extensions())


def _is_image(name: str) -> bool:
    return name.lower().endswith(_EXTENSIONS) and not name.startswith('.')
