"""Networks that read shape and texture apart, to ask them what a stylised image shows."""

import logging
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor

from ..data.shapes_textures import CLASSES, ShapesTextures
from ..stylizers import Stylizer

_logger = logging.getLogger(__name__)

_ARCHITECTURE = 'resnet10t'
_BATCH_SIZE = 32
_LR = 2e-3


class CueReader(nn.Module):
    """Names the shape and the texture of images of `shapes_textures`.

    One network with two heads, trained where the two cues are independent, so that neither helps to guess the other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network: Any = timm.create_model(_ARCHITECTURE, num_classes=2 * len(CLASSES))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of shape and texture, [B, K] each, for `images` [B, 3, H, W] in [0, 1]."""
        shape, texture = self.network(2 * images - 1).chunk(2, dim=1)
        return shape, texture

    def statistics(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return mean and standard deviation of the features of each stage, [B, 2·C] each."""
        levels = self.network.forward_intermediates(2 * images - 1, intermediates_only=True)
        return [torch.cat([level.mean((2, 3)), level.std((2, 3))], dim=1) for level in levels]


def train_reader(seed: int, img_size: int = 64, epochs: int = 6, num_samples: int = 4096) -> CueReader:
    """Train a `CueReader` on unstylised images, drawn with `seed`, in which shape and texture are independent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = CueReader().train()
        # Every pair of shape and texture equally often: as many images that agree as of each other distance.
        agreeing = num_samples // len(CLASSES)
        conflict = ShapesTextures('conflict', img_size, seed=seed, num_samples=num_samples - agreeing)
        agree = ShapesTextures('train', img_size, seed=seed, num_samples=agreeing)
        # Drawn once for all epochs: drawing takes longer than a step.
        drawn = [
            (to_tensor(data[index][0]), torch.tensor([data.shape_labels[index], data.texture_labels[index]]))
            for data in (conflict, agree)
            for index in range(len(data))
        ]
        loader: DataLoader = DataLoader(drawn, _BATCH_SIZE, shuffle=True, drop_last=True)  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(reader.parameters(), lr=_LR, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=epochs * len(loader))
        for epoch in range(epochs):
            for batch, target in loader:
                shape, texture = reader(batch)
                loss = F.cross_entropy(shape, target[:, 0]) + F.cross_entropy(texture, target[:, 1])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            _logger.info(f'Reader of shape and texture: epoch {epoch + 1}/{epochs}, loss {loss.item():.3f}')
    return reader.eval().requires_grad_(False)


@torch.no_grad()
def read_cues(
    reader: CueReader, stylizer: Stylizer | None, alpha: float, img_size: int, num_samples: int, seed: int
) -> dict[str, float]:
    """Return what `reader` makes of stylised pairs of different classes, each a share in [0, 1].

    `shape` and `texture` are the shares in which it names the content's shape and the partner's texture;
    `content_texture` the one in which it still names the texture that the content had. Chance is 1 / 8. Without a
    stylizer the contents are shown as they are.
    """
    data = ShapesTextures('validation', img_size, seed=seed, num_samples=num_samples, transform=to_tensor)
    images = torch.stack([data[index][0] for index in range(len(data))])
    labels = torch.tensor(data.shape_labels)
    ahead = 1 + torch.arange(len(data)) // len(CLASSES) % (len(CLASSES) - 1)
    partners = (torch.arange(len(data)) + ahead) % len(data)
    right = {'shape': 0, 'texture': 0, 'content_texture': 0}
    for content, style in zip(torch.arange(len(data)).split(_BATCH_SIZE), partners.split(_BATCH_SIZE), strict=True):
        shown = images[content] if stylizer is None else stylizer(images[content], images[style], alpha).clamp(0, 1)
        shape, texture = reader(shown)
        right['shape'] += int((shape.argmax(1) == labels[content]).sum())
        right['texture'] += int((texture.argmax(1) == labels[style]).sum())
        right['content_texture'] += int((texture.argmax(1) == labels[content]).sum())
    return {name: count / len(data) for name, count in right.items()}
