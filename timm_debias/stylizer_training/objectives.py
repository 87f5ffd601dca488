"""What each stylizer is trained for."""

from typing import Protocol

import torch
import torch.nn.functional as F

from ..stylizers.adain_lite import AdainLite
from ..stylizers.adain_vgg19 import AdainVgg19
from ..stylizers.base import adain, mean_std
from .texture import RandomTexture

Losses = dict[str, torch.Tensor]


class Objective(Protocol):
    """Returns the weighted terms of the loss of a batch; their sum is minimised."""

    def __call__(self, images: torch.Tensor, partners: torch.Tensor) -> Losses:
        """Compute the terms for `images` [B, 3, H, W], image i to get the texture of image partners[i]."""


class LiteObjective:
    """Trains encoder and decoder of `adain_lite` with no other trained network.

    At alpha = 0 the image has to come back; at alpha = 1 its texture, judged by random filters, has to be the
    partner's, while its coarse edges and the normalised features of the encoder's coarsest level stay the content's.
    """

    def __init__(self, stylizer: AdainLite, seed: int, device: torch.device) -> None:
        self.stylizer = stylizer
        self.texture = RandomTexture(seed).to(device)

    def __call__(self, images: torch.Tensor, partners: torch.Tensor) -> Losses:
        features = self.stylizer.encode(images)
        style = self.stylizer.style(features)
        partner_style = tuple(statistic[partners] for statistic in style)
        rebuilt = self.stylizer.decode(features, style, 0.0)
        stylised = self.stylizer.decode(features, partner_style, 1.0)
        content = _normalised(features[-1]).detach()
        outside = F.relu(stylised - 1) + F.relu(-stylised)
        return {
            'reconstruction': 4 * F.l1_loss(rebuilt, images) + 8 * F.mse_loss(rebuilt, images),
            'texture': 2 * self.texture.distance(stylised, images[partners]).mean(),
            'edges': 0.15 * F.mse_loss(_edges(stylised), _edges(images)),
            'content': 0.15 * F.mse_loss(_normalised(self.stylizer.encode(stylised)[-1]), content),
            'range': 2 * outside.mean(),
        }


class VGGObjective:
    """Trains the decoder of `adain_vgg19` as Huang & Belongie (ICCV 2017) do: content + 10 · style."""

    def __init__(self, stylizer: AdainVgg19) -> None:
        self.stylizer = stylizer
        stylizer.encoder.requires_grad_(False)

    def __call__(self, images: torch.Tensor, partners: torch.Tensor) -> Losses:
        levels = self.stylizer.style_features(images)
        mean, std = mean_std(levels[-1])
        target = adain(levels[-1], mean[partners], std[partners], 1.0)
        found = self.stylizer.style_features(self.stylizer.decoder(target))
        style = images.new_zeros(())
        for ours, theirs in zip(found, levels, strict=True):
            for statistic, wanted in zip(mean_std(ours), mean_std(theirs), strict=True):
                style = style + F.mse_loss(statistic, wanted[partners])
        return {'content': F.mse_loss(found[-1], target), 'style': 10 * style}


def _normalised(features: torch.Tensor) -> torch.Tensor:
    mean, std = mean_std(features)
    return (features - mean) / std


def _edges(images: torch.Tensor) -> torch.Tensor:
    """Return the strength of luminance edges at 1/8 of the size, standardised per image: [B, N]."""
    grey = F.avg_pool2d(images.mean(1, keepdim=True), 4)
    across = grey[..., 1:, 1:] - grey[..., 1:, :-1]
    down = grey[..., 1:, 1:] - grey[..., :-1, 1:]
    strength = F.avg_pool2d((across.square() + down.square() + 1e-5).sqrt(), 2).flatten(1)
    return (strength - strength.mean(1, keepdim=True)) / (strength.std(1, keepdim=True) + 1e-3)
