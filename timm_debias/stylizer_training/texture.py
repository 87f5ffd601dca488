"""A description of texture that needs no trained network."""

import torch
import torch.nn.functional as F
from torch import nn

_LEVELS = 4
_FILTERS = 64
_SIZE = 7


class RandomTexture(nn.Module):
    """Gram matrices of random 7×7 filters with ReLU, on an image pyramid of four levels.

    Shallow random filters carry enough of a texture to synthesise it again: Ustyuzhaninov et al., "What does it take to
    generate natural textures?" (ICLR 2017).

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

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return a Gram matrix [B, 64, 64] a level for `images` [B, 3, H, W], H and W at least 32."""
        grams = []
        for level in range(_LEVELS):
            if level:
                images = F.avg_pool2d(images, 2)
            padded = F.pad(images, (_SIZE // 2,) * 4, mode='reflect')
            responses = F.relu(F.conv2d(padded, self.filters, self.bias)).flatten(2)
            grams.append(responses @ responses.mT / responses.shape[2])
        return grams

    def distance(self, images: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
        """Return the distance of the textures of two batches, [B]: relative to the style, summed over levels."""
        total = torch.zeros(len(images), device=images.device)
        for ours, theirs in zip(self(images), self(styles), strict=True):
            total = total + (ours - theirs).flatten(1).norm(dim=1) / (theirs.flatten(1).norm(dim=1) + 1e-3)
        return total
