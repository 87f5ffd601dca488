"""timm's Posterize where no bit is kept: a black image, which Pillow makes no longer from version 13 on."""

from typing import Any

import timm.data.auto_augment as auto_augment
from PIL import Image

_OPERATIONS = ('Posterize', 'PosterizeIncreasing', 'PosterizeOriginal')


def posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """Return `image` with the highest bits of each channel; with 0 of them it is black."""
    if bits_to_keep == 0:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **options)


def repair_posterize() -> None:
    """Let timm's policies keep no bit, as those of ConvNeXt and DeiT do now and then; calling it again changes nothing.

    At magnitude 10, which `rand-m9-mstd0.5-inc1` draws in one of 44 cases, and in a sub-policy of `v0`, timm asks for
    0 bits, and Pillow 13 raises ValueError in the middle of training.
    """
    operations: dict[str, Any] = auto_augment.NAME_TO_OP
    operations.update(dict.fromkeys(_OPERATIONS, posterize))
