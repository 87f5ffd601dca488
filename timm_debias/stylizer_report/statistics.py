"""How near stylisation brings an image to its partner, as another network sees it."""

import torch

from ..stylizers import Stylizer
from .readers import CueReader


@torch.no_grad()
def statistics_removed(
    stylizer: Stylizer, images: torch.Tensor, judge: CueReader, alpha: float = 1.0, batch_size: int = 16
) -> float:
    """Return the share of the distance between the feature statistics of content and partner that stylising removes.

    The distance is the Euclidean one between means and standard deviations of the features, averaged over the judge's
    stages after each is divided by the mean distance of content and partner there.

    Args:
        stylizer: In eval mode.
        images: [N, 3, H, W] in [0, 1], N at least 2; each is paired with the next.
        judge: Network that the stylizer was not trained against.
        alpha: Strength of stylisation.
        batch_size: Images a forward.
    """
    partners = images.roll(-1, dims=0)
    before, after = [], []
    for content, style in zip(images.split(batch_size), partners.split(batch_size), strict=True):
        wanted = judge.statistics(style)
        before.append(_distances(judge.statistics(content), wanted))
        after.append(_distances(judge.statistics(stylizer(content, style, alpha).clamp(0, 1)), wanted))
    left = torch.cat(after).mean(0) / torch.cat(before).mean(0)
    return 1 - left.mean().item()


def _distances(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([(a - b).norm(dim=1) for a, b in zip(ours, theirs, strict=True)], dim=1)
