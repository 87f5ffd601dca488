"""Images from files that may hold anything: decoded as Pillow does it, or the reason why not."""

import os
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from timm.data import AugMixDataset, ImageDataset
from timm.data.scheduled_sampler import ScheduledTransformDataset

from ..errors import is_of_the_machine, reason


class BadImageError(OSError):
    """An image that cannot be read, whatever the reason."""


@dataclass(frozen=True)
class Failure:
    """An image that could not be used."""

    index: int
    reason: str
    fatal: bool = False
    """Whether it was read, but contradicts what the data is said to be: no policy leaves it out."""


def is_bad_image(error: Exception) -> bool:
    """Return whether an error that a data set raised is about the image, not about the machine or the program."""
    if isinstance(error, OSError):
        return not is_of_the_machine(error)
    return isinstance(error, (Image.DecompressionBombError, SyntaxError))


def decode_image(file: str | os.PathLike | IO[bytes], mode: str | None = 'RGB') -> Image.Image:
    """Return an image, decoded to its end and converted to `mode` as Pillow and timm do it.

    Of an animation it is the first frame; an EXIF orientation is not applied; transparency is dropped. Images above
    twice `PIL.Image.MAX_IMAGE_PIXELS`, 179 million pixels, are refused before they are decoded, and so are grey ones of
    16 or 32 bits, in which Pillow's conversion would make everything above 255 white.

    Args:
        file: Path, or the opened file.
        mode: Pillow's mode; None to leave the image as it is.

    Raises:
        BadImageError: the file is missing, empty, truncated, no image, or refused.
        OSError: the machine, not the file, is at fault: too many open files, no memory, a lost file server.
    """
    try:
        with Image.open(file) as image:
            check_depth(image, mode)
            image.load()
            return image.convert(mode) if mode else image.copy()
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # Its message holds the opened file, another text in every process.
        raise BadImageError('cannot identify image file') from error
    except Exception as error:  # Image decoders raise almost anything on a broken file.
        if isinstance(error, OSError) and not is_bad_image(error):
            raise
        raise BadImageError(reason(error)) from error


def check_depth(image: Image.Image, mode: str | None = 'RGB') -> None:
    """Raise `BadImageError` where converting an opened image to `mode` would clip its values."""
    deep = image.mode in ('I', 'F') or image.mode.startswith('I;')
    if deep and mode not in (None, image.mode):
        bits = 16 if image.mode.startswith('I;16') else 32
        raise BadImageError(f'grey values of {bits} bits, which Pillow would clip at 255: convert the file to 8 bits')


class CheckedImages(ImageDataset):
    """timm's `ImageDataset` that raises `BadImageError` for an image that it cannot read.

    timm's own puts the next image of the data set in its place, with a warning, in training as in validation.

    Args:
        dataset: What `timm.data.create_dataset` returned; taken over.
    """

    def __init__(self, dataset: ImageDataset) -> None:
        super().__init__(
            None,
            reader=dataset.reader,
            load_bytes=dataset.load_bytes,
            input_img_mode=dataset.input_img_mode,
            transform=dataset.transform,
            target_transform=dataset.target_transform,
            additional_features=dataset.additional_features,
        )

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        try:
            file, target, *features = self.reader[index]
        except OSError as error:
            if not is_bad_image(error):
                raise
            raise BadImageError(error.strerror or reason(error)) from error
        image = file.read() if self.load_bytes else decode_image(file, self.input_img_mode)
        if self.transform is not None:
            image = self.transform(image)
        if target is None:
            target = -1
        elif self.target_transform is not None:
            target = self.target_transform(target)
        return (image, target) if self.additional_features is None else (image, target, *features)


def image_name(dataset: Any, index: int) -> str:
    """Return the path of an image of a data set, or its number where the data set has no paths."""
    while isinstance(dataset, (AugMixDataset, ScheduledTransformDataset)):
        dataset = dataset.dataset
    try:
        return str(dataset.filename(index, absolute=True))
    except Exception:  # timm's readers without names raise what they like.
        samples = getattr(dataset, 'samples', None)  # torchvision's folders.
        return str(samples[index][0]) if samples else f'image {index}'


def label_error(target: Any, num_classes: int | None) -> str | None:
    """Return what is wrong with a class index, None where it lies in [0, num_classes) or the target is no index.

    Nothing is where `num_classes` is None.
    """
    if num_classes is not None and isinstance(target, (int, np.integer)) and not 0 <= target < num_classes:
        return f'label {int(target)}, and the model has the classes 0 to {num_classes - 1}'
    return None
