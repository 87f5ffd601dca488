"""How near stylisation brings an image to its partner, as another network sees it."""

import torch

from ..stylizer_training.measure import Transfer
from .readers import CueReader

BLOCKS = 4
"""Blocks a side that `shuffled` cuts."""


def mirrored(content: torch.Tensor, style: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the partner itself, mirrored: nothing of the content is left, and still a judge sees a difference."""
    return style.flip(-1)


def shuffled(content: torch.Tensor, style: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the partner with its 4×4 blocks shuffled: its texture, nothing of its shape, nothing of the content.

    Rows and columns that do not fill a block stay where they are.
    """
    height, width = (length // BLOCKS for length in style.shape[-2:])
    inner = style[..., : BLOCKS * height, : BLOCKS * width]
    blocks = inner.unflatten(3, (BLOCKS, width)).unflatten(2, (BLOCKS, height)).transpose(3, 4).flatten(2, 3)
    blocks = blocks[:, :, torch.randperm(BLOCKS**2, generator=torch.Generator().manual_seed(0))]
    result = style.clone()
    result[..., : BLOCKS * height, : BLOCKS * width] = (
        blocks.unflatten(2, (BLOCKS, BLOCKS)).transpose(3, 4).flatten(4).flatten(2, 3)
    )
    return result


REFERENCES: dict[str, Transfer] = {'partner mirrored': mirrored, 'partner shuffled': shuffled}
"""Images that have all of the partner's texture: no stylizer can be expected to come nearer to the partner."""


@torch.no_grad()
def statistics_removed(stylizer: Transfer, images: torch.Tensor, judge: CueReader, batch_size: int = 16) -> float:
    """Return the share of the distance between the feature statistics of content and partner that alpha = 1 removes.

    The distance is the Euclidean one between means and standard deviations of the features, averaged over the judge's
    stages after each is divided by the mean distance of content and partner there.

    Args:
        stylizer: In eval mode, or one of `REFERENCES`.
        images: [N, 3, H, W] in [0, 1], N at least 2; each is paired with the next.
        judge: Network that the stylizer was not trained against.
        batch_size: Images a forward.
    """
    partners = images.roll(-1, dims=0)
    before, after = [], []
    for content, style in zip(images.split(batch_size), partners.split(batch_size), strict=True):
        wanted = judge.statistics(style)
        before.append(_distances(judge.statistics(content), wanted))
        after.append(_distances(judge.statistics(stylizer(content, style, 1.0).clamp(0, 1)), wanted))
    left = torch.cat(after).mean(0) / torch.cat(before).mean(0)
    return 1 - left.mean().item()


def _distances(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([(a - b).norm(dim=1) for a, b in zip(ours, theirs, strict=True)], dim=1)
