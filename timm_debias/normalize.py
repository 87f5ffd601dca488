"""Per-channel normalisation and its inverse."""

from collections.abc import Sequence

import torch
from torch import nn

from .errors import DebiasError


class Normalize(nn.Module):
    """(images − mean) / std per channel, for [B, 3, H, W] images in [0, 1]; `inverse` undoes it.

    Args:
        mean: One value a channel, in [0, 1].
        std: One positive value a channel.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise DebiasError(f'mean {tuple(mean)} and std {tuple(std)}: expected 3 values each, std above 0')
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return normalised images of the dtype of `images`."""
        return ((at_least_float32(images) - self.mean) / self.std).to(images.dtype)

    def inverse(self, images: torch.Tensor) -> torch.Tensor:
        """Return images in [0, 1] from normalised ones, float32 from half precision."""
        images = at_least_float32(images)
        return torch.addcmul(self.mean.to(images.dtype), images, self.std.to(images.dtype))


def at_least_float32(images: torch.Tensor) -> torch.Tensor:
    """Return half-precision images as float32, others as they are."""
    return images.to(torch.promote_types(images.dtype, torch.float32))
