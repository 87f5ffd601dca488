"""How good a stylizer is, on held-out images."""

import torch
import torch.nn.functional as F

from ..stylizers import Stylizer
from .texture import RandomTexture


@torch.no_grad()
def measure(stylizer: Stylizer, images: torch.Tensor, judge: RandomTexture, batch_size: int = 16) -> dict[str, float]:
    """Return `psnr` in dB and `texture_removed`, a fraction.

    `psnr` compares the reconstruction at alpha = 0, clamped, with the images, averaged over images. `texture_removed`
    is the share of the distance between the textures of content and partner that stylising at alpha = 1 removes, as
    `judge` sees it.

    Args:
        stylizer: In eval mode.
        images: [N, 3, H, W] in [0, 1], N at least 2; each is paired with the next.
        judge: With another seed than the filters that the stylizer was trained against.
        batch_size: Images a forward.
    """
    partners = images.roll(-1, dims=0)
    psnr, before, after = [], [], []
    for content, style in zip(images.split(batch_size), partners.split(batch_size), strict=True):
        rebuilt = stylizer(content, style, 0.0).clamp(0, 1)
        psnr.append(-10 * F.mse_loss(rebuilt, content, reduction='none').mean((1, 2, 3)).log10())
        before.append(judge.distance(content, style))
        after.append(judge.distance(stylizer(content, style, 1.0).clamp(0, 1), style))
    removed = 1 - torch.cat(after).mean() / torch.cat(before).mean()
    return {'psnr': torch.cat(psnr).mean().item(), 'texture_removed': removed.item()}
