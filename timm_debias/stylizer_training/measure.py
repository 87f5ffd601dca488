"""How good a stylizer is, on held-out images."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from ..stylizers import Stylizer
from .texture import RandomTexture

Transfer = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(content, style, alpha) -> images of the content's size: a stylizer, or a stand-in to compare it with."""


_EXACT = 1e-15
"""Mean squared error, about that of float32 rounding: less is none."""


def measure(stylizer: Stylizer, images: torch.Tensor, judge: RandomTexture, batch_size: int = 16) -> dict[str, float]:
    """Return `psnr` and `texture_removed` of `stylizer`; see the functions of these names."""
    return {
        'psnr': psnr(stylizer, images, batch_size),
        'texture_removed': texture_removed(stylizer, images, judge, batch_size),
    }


@torch.no_grad()
def psnr(stylizer: Transfer, images: torch.Tensor, batch_size: int = 16) -> float:
    """Return the PSNR in dB of the reconstruction at alpha = 0, clamped, averaged over images; an exact one has 150.

    Args:
        stylizer: In eval mode.
        images: [N, 3, H, W] in [0, 1], N at least 2; each is paired with the next.
        batch_size: Images a forward.
    """
    found = []
    for content, style in _pairs(images, batch_size):
        rebuilt = stylizer(content, style, 0.0).clamp(0, 1)
        error = F.mse_loss(rebuilt, content, reduction='none').mean((1, 2, 3))
        found.append(-10 * error.clamp(min=_EXACT).log10())
    return torch.cat(found).mean().item()


@torch.no_grad()
def texture_removed(stylizer: Transfer, images: torch.Tensor, judge: RandomTexture, batch_size: int = 16) -> float:
    """Return the share of the distance between the textures of content and partner that alpha = 1 removes.

    Args:
        stylizer: In eval mode.
        images: [N, 3, H, W] in [0, 1], N at least 2; each is paired with the next.
        judge: With another seed than the filters that the stylizer was trained against.
        batch_size: Images a forward.
    """
    before, after = [], []
    for content, style in _pairs(images, batch_size):
        before.append(judge.distance(content, style))
        after.append(judge.distance(stylizer(content, style, 1.0).clamp(0, 1), style))
    return 1 - (torch.cat(after).mean() / torch.cat(before).mean()).item()


def _pairs(images: torch.Tensor, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(images.split(batch_size), images.roll(-1, dims=0).split(batch_size), strict=True)
