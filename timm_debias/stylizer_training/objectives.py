"""What each stylizer is trained for."""

from typing import Protocol

import torch
import torch.nn.functional as F

from ..stylizers.adain_lite import AdainLite
from ..stylizers.adain_vgg19 import AdainVgg19
from ..stylizers.base import adain, mean_std
from ..stylizers.patches import choose, cut_patches
from .figures import Batch
from .texture import RandomTexture, gram_distance, local_distance

Losses = dict[str, torch.Tensor]


class Objective(Protocol):
    """Returns the weighted terms of the loss of a batch; their sum is minimised."""

    def figures(self, batch_size: int) -> int:
        """Return how many images of a batch are to be drawn figures."""

    def __call__(self, batch: Batch) -> Losses:
        """Compute the terms."""


class LiteObjective:
    """Trains encoder and decoder of `adain_lite` with no other trained network.

    At alpha = 0 the image has to come back; at alpha = 1 its texture, judged by random filters, has to be the
    partner's, while the coarse edges of crops stay the content's. A drawn figure, whose restyled self is known, has to
    look like it place by place. Places within a figure have to choose patches from within the partner's figure, few
    each, and the same as their neighbours.
    """

    def __init__(self, stylizer: AdainLite, seed: int, device: torch.device) -> None:
        self.stylizer = stylizer
        self.texture = RandomTexture(seed).to(device)

    def figures(self, batch_size: int) -> int:
        return batch_size // 2

    def __call__(self, batch: Batch) -> Losses:
        images, partners, restyled, inside = batch
        figures = len(restyled)
        features = self.stylizer.encode(images)
        style = self.stylizer.style(features)
        partner_style = tuple(statistic[partners] for statistic in style)
        rebuilt = self.stylizer.cropped(self.stylizer.decode(features, style, 0.0), images)
        stylised = self.stylizer.cropped(self.stylizer.decode(features, partner_style, 1.0), images)
        seen = self.texture(stylised)
        seen_figures = [level[:figures] for level in seen]
        outside = F.relu(stylised - 1) + F.relu(-stylised)
        return {
            'reconstruction': 4 * F.l1_loss(rebuilt, images) + 8 * F.mse_loss(rebuilt, images),
            'texture': 2 * gram_distance(seen, [level[partners] for level in self.texture(images)]).mean(),
            'edges': 0.15 * F.mse_loss(_edges(stylised[figures:]), _edges(images[figures:])),
            'figures': 2 * local_distance(seen_figures, self.texture(restyled)).mean(),
            **self._choice(features.keys, partner_style[1], partners, inside),
            'range': 2 * outside.mean(),
        }

    @staticmethod
    def _choice(queries: torch.Tensor, keys: torch.Tensor, partners: torch.Tensor, inside: torch.Tensor) -> Losses:
        """Places within a figure are to choose patches from within the partner's, few each, and as neighbours do."""
        figures = len(inside)
        weights = choose(keys, queries)
        wanted = F.adaptive_avg_pool2d(inside, (queries.shape[-2], queries.shape[-1]))
        offered = cut_patches(wanted, 2).mean((2, 3, 4))[partners[:figures]]
        found = torch.einsum('bk,bkhw->bhw', offered, weights[:figures])
        entropy = -(weights * (weights + 1e-6).log()).sum(1)
        changes = weights.diff(dim=2).abs().sum(1).mean() + weights.diff(dim=3).abs().sum(1).mean()
        return {
            'choice': 2 * (found - wanted[:, 0]).abs().mean(),
            'entropy': 0.05 * entropy.mean(),
            'changes': 0.2 * changes,
        }


class VGGObjective:
    """Trains the decoder of `adain_vgg19` as Huang & Belongie (ICCV 2017) do: content + 10 · style."""

    def __init__(self, stylizer: AdainVgg19) -> None:
        self.stylizer = stylizer
        stylizer.encoder.requires_grad_(False)

    def figures(self, batch_size: int) -> int:
        return 0

    def __call__(self, batch: Batch) -> Losses:
        images, partners, *_ = batch
        levels = self.stylizer.style_features(images)
        mean, std = mean_std(levels[-1])
        target = adain(levels[-1], mean[partners], std[partners], 1.0)
        found = self.stylizer.style_features(self.stylizer.decoder(target))
        style = images.new_zeros(())
        for ours, theirs in zip(found, levels, strict=True):
            for statistic, wanted in zip(mean_std(ours), mean_std(theirs), strict=True):
                style = style + F.mse_loss(statistic, wanted[partners])
        return {'content': F.mse_loss(found[-1], target), 'style': 10 * style}


def _edges(images: torch.Tensor) -> torch.Tensor:
    """Return the strength of luminance edges at 1/8 of the size, standardised per image: [B, N]."""
    grey = F.avg_pool2d(images.mean(1, keepdim=True), 4)
    across = grey[..., 1:, 1:] - grey[..., 1:, :-1]
    down = grey[..., 1:, 1:] - grey[..., :-1, 1:]
    strength = F.avg_pool2d((across.square() + down.square() + 1e-5).sqrt(), 2).flatten(1)
    return (strength - strength.mean(1, keepdim=True)) / (strength.std(1, keepdim=True) + 1e-3)
