"""A description of texture that needs no trained network."""

import torch
import torch.nn.functional as F
from torch import nn

_LEVELS = 4
_FILTERS = 64
_SIZE = 7

MIN_SIDE = 48
"""Smallest side of an image in pixels: the last level has an eighth of it, which filters of 7 pixels look at."""

Responses = list[torch.Tensor]
"""What filters see on each level of an image pyramid: [B, C, H, W], H and W halved from level to level."""


class RandomTexture(nn.Module):
    """Random 7×7 filters with ReLU, on an image pyramid of four levels.

    The Gram matrices of shallow random filters carry enough of a texture to synthesise it again: Ustyuzhaninov et al.,
    "What does it take to generate natural textures?" (ICLR 2017).

    Args:
        seed: Seed of the filters; another seed makes an independent judge.
    """

    filters: torch.Tensor
    bias: torch.Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        filters = torch.randn(_FILTERS, 3, _SIZE, _SIZE, generator=generator)
        # Most filters see structure only; the others see colour too.
        blind_to_colour = torch.rand(_FILTERS, 1, 1, 1, generator=generator) < 0.7
        filters = filters - filters.mean((2, 3), keepdim=True) * blind_to_colour
        self.register_buffer('filters', filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
        self.register_buffer('bias', 0.1 * torch.randn(_FILTERS, generator=generator))

    def forward(self, images: torch.Tensor) -> Responses:
        """Return the responses [B, 64, H, W] a level to `images` [B, 3, H, W], H and W at least 32."""
        levels = []
        for level in range(_LEVELS):
            if level:
                images = F.avg_pool2d(images, 2)
            padded = F.pad(images, (_SIZE // 2,) * 4, mode='reflect')
            levels.append(F.relu(F.conv2d(padded, self.filters, self.bias)))
        return levels

    def distance(self, images: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
        """Return the distance of the textures of two batches, [B]; see `gram_distance`."""
        return gram_distance(self(images), self(styles))


def gram_distance(ours: Responses, wanted: Responses) -> torch.Tensor:
    """Return the distance of the Gram matrices of responses, [B]: relative to the wanted ones, summed over levels."""
    total = ours[0].new_zeros(len(ours[0]))
    for a, b in zip(map(_gram, ours), map(_gram, wanted), strict=True):
        total = total + (a - b).flatten(1).norm(dim=1) / (b.flatten(1).norm(dim=1) + 1e-3)
    return total


def local_distance(ours: Responses, wanted: Responses) -> torch.Tensor:
    """Return how far the mean responses of each place are from the wanted ones, [B]: relative, summed over levels.

    A place is a sixth of the image wide: a pattern may be shifted, but must not be elsewhere.
    """
    total = ours[0].new_zeros(len(ours[0]))
    for a, b in zip(ours, wanted, strict=True):
        window = max(2, a.shape[-1] // 6)
        a, b = (F.avg_pool2d(x, window, window // 2) for x in (a, b))
        total = total + (a - b).abs().mean((1, 2, 3)) / (b.mean((1, 2, 3)) + 1e-3)
    return total


def _gram(responses: torch.Tensor) -> torch.Tensor:
    flat = responses.flatten(2)
    return flat @ flat.mT / flat.shape[2]
