"""A bank of styles, and the per-image augmentation that draws from it."""

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image

from .errors import DebiasError
from .stylizers import Stylizer
from .stylizers.base import Style


class StyleBank:
    """Styles of a set of images, kept as what the stylizer needs of them: 115 kB an image with `adain_lite`.

    Attributes:
        styles: What `Stylizer.style` returns for all images, on the CPU.

    Args:
        stylizer: Computes the styles and applies them.
        images: Float images [3, H, W] in [0, 1] on the stylizer's device, any sizes it takes.

    Raises:
        DebiasError: no images.
    """

    def __init__(self, stylizer: Stylizer, images: Iterable[torch.Tensor]) -> None:
        self.stylizer = stylizer
        with torch.no_grad():
            styles = [
                tuple(tensor.cpu() for tensor in stylizer.style(stylizer.encode(image.unsqueeze(0))))
                for image in images
            ]
        if not styles:
            raise DebiasError('a style bank needs at least one image')
        self.styles: Style = tuple(torch.cat(tensors) for tensors in zip(*styles, strict=True))

    def __len__(self) -> int:
        return len(self.styles[0])

    @torch.no_grad()
    def apply(self, image: torch.Tensor, index: int, alpha: float) -> torch.Tensor:
        """Return `image` [3, H, W] in [0, 1] in the style of number `index`, clamped to [0, 1].

        Raises:
            DebiasError: the stylizer's output is not finite.
        """
        style = tuple(tensor[index : index + 1] for tensor in self.styles)
        stylised = self.stylizer.restyle(image.unsqueeze(0), style, alpha)
        if not stylised.isfinite().all():
            raise DebiasError(f'the stylizer gives NaN or infinite values for style {index}: check its weights')
        return stylised.squeeze(0).clamp(0, 1)


class Stylize:
    """timm auto-augment operation: (PIL image, strength in [0, 1]) -> PIL image in a random style of the bank.

    The style is drawn from Python's `random`, as timm's own operations draw, so timm's worker seeding covers it.
    """

    def __init__(self, bank: StyleBank) -> None:
        self.bank = bank

    def __call__(self, image: Image.Image, alpha: float, **_: Any) -> Image.Image:
        pixels = torch.from_numpy(np.array(image.convert('RGB'))).permute(2, 0, 1).float() / 255
        stylised = self.bank.apply(pixels, random.randrange(len(self.bank)), alpha)
        return Image.fromarray((stylised * 255).round().byte().permute(1, 2, 0).numpy()).convert(image.mode)
