"""The step of the reference implementation, restated, to compare with.

What github.com/LiYingwei/ShapeTextureDebiasedTraining (imagenet.py, aux_bn.py, models/AdaIN.py) computes in a step at
one size: content and style are encoded apart, by VGG-19 to relu4_1; every batch norm slices its input and joins the
results; losses and accuracies are read on the host. In float32, as the reference trains. Weights are random: they do
not change the time.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .steps import ALPHA, Setup, Step, Trained

_GAMMA = 0.8
_Plan = tuple[Any, ...]
_ENCODER: _Plan = (
    (3, 64), (64, 64), 'pool', (64, 128), (128, 128), 'pool', (128, 256), *((256, 256),) * 3, 'pool', (256, 512)
)  # fmt: skip
_DECODER: _Plan = (
    (512, 256), 'up', *((256, 256),) * 3, (256, 128), 'up', (128, 128), (128, 64), 'up', (64, 64), (64, 3)
)  # fmt: skip
"""Channels of the 3×3 convolutions, and what lies between them."""


def reference_step(setup: Setup) -> Step | None:
    """Return the reference's step; None for a model whose batch norms are not those of its ResNets.

    Args:
        setup: Model, size and number of clean images; its precision, layout and compilation are not the reference's.
    """
    setup = replace(setup, amp_dtype=None, model_dtype=torch.float32, channels_last=False, torchcompile=None)
    model = setup.create_model()
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms or any(type(norm) is not nn.BatchNorm2d for norm in norms):
        return None
    for norm in norms:
        norm.__class__ = MixedBatchNorm2d
        norm.aux_bn = nn.BatchNorm2d(norm.num_features).to(setup.device)
    encoder = nn.Sequential(nn.Conv2d(3, 3, 1), *_layers(_ENCODER)).to(setup.device)
    decoder = nn.Sequential(*_layers(_DECODER)[:-1]).to(setup.device)
    images, labels = setup.images(), setup.labels(model.num_classes)

    def loss() -> torch.Tensor:
        both, targets = _stylised(encoder, decoder, images, labels)
        mean = torch.tensor([0.485, 0.456, 0.406], device=setup.device)[:, None, None]
        std = torch.tensor([0.229, 0.224, 0.225], device=setup.device)[:, None, None]
        return _loss(model((both - mean) / std), *targets)

    weights = (*encoder.parameters(), *decoder.parameters())
    return Step(setup, Trained(setup, model), loss, (images, labels, *weights))


class MixedBatchNorm2d(nn.BatchNorm2d):
    """Main batch norm for the first half of a batch, auxiliary for the second."""

    aux_bn: nn.BatchNorm2d

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        half = len(input) // 2
        return torch.cat((super().forward(input[:half]), self.aux_bn(input[half:])), 0)


Targets = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""First labels, second labels, weights of the second, each of 2n images."""


@torch.no_grad()
def _stylised(
    encoder: nn.Module, decoder: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, Targets]:
    partners = torch.randperm(len(images))
    content, style = encoder(images), encoder(images[partners])
    content_mean, content_std = _mean_std(content)
    style_mean, style_std = _mean_std(style)
    features = (content - content_mean) / content_std * style_std + style_mean
    stylised = decoder(features * ALPHA + content * (1 - ALPHA))
    weight = torch.cat([torch.zeros(len(images)), torch.ones(len(images)) * (1 - _GAMMA)]).to(images.device)
    targets = labels.repeat(2), labels[partners].repeat(2), weight
    return torch.cat([images, stylised]), targets


def _mean_std(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    flat = features.flatten(2)
    return flat.mean(2)[:, :, None, None], (flat.var(2) + 1e-5).sqrt()[:, :, None, None]


def _loss(logits: torch.Tensor, first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    criterion: Callable = nn.CrossEntropyLoss(reduction='none')
    loss = ((1 - weight) * criterion(logits, first) + weight * criterion(logits, second)).mean()
    # Its meters, each read at once.
    loss.item()
    top5 = logits.detach().topk(5).indices == first[:, None]
    (top5[:, 0].float().mean().item(), top5.any(1).float().mean().item())
    with torch.no_grad():
        for half_logits, half_labels in zip(logits.chunk(2), first.chunk(2), strict=True):
            criterion(half_logits, half_labels).mean().item()
            (half_logits.argmax(1) == half_labels).float().mean().item()
    return loss


def _layers(plan: _Plan) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for item in plan:
        if item == 'pool':
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        elif item == 'up':
            layers.append(nn.Upsample(scale_factor=2, mode='nearest'))
        else:
            inputs, outputs = item
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3), nn.ReLU()]
    return layers
