"""Compares the logits of a model before and after it was converted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision.models.resnet as torchvision_resnet
from PIL import Image
from timm.data import create_transform
from timm.models import create_model
from torch import nn

from ..aux_bn import convert_aux_bn
from ..data.checks import check_images
from ..data.images import images_below
from ..errors import DebiasError
from ..weight_files import difference, load_safetensors, load_state
from .checkpoints import Checkpoint
from .folder import WEIGHTS
from .network import with_numbers_of_batches

MAX_IMAGES = 64
"""More images than this are left out."""

_BATCH = 8
_MODES = {1: 'L', 3: 'RGB'}
"""Channels -> mode of Pillow."""


def sample_images(folder: str) -> list[Path]:
    """Return the first images in a folder and its sub-folders.

    Raises:
        DebiasError: no such folder, no images in it, or one that cannot be read.
    """
    paths = images_below(folder, '--verify')[:MAX_IMAGES]
    check_images([str(path) for path in paths])
    return paths


def read_images(paths: list[Path], data_config: Mapping[str, Any]) -> torch.Tensor:
    """Return images as timm's evaluation gives them to a model: [N, C, H, W], normalised.

    Raises:
        DebiasError: a model of other images than colour or grey.
    """
    channels = data_config['input_size'][0]
    if channels not in _MODES:
        raise DebiasError(f'--verify: images have 1 or 3 channels, and the model takes {channels}')
    transform: Any = create_transform(**data_config)
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(transform(image.convert(_MODES[channels])))
    return torch.stack(images)


def network_before(arch: str, network: nn.Module, checkpoint: Checkpoint) -> nn.Module:
    """Return a network with the weights as they are in the checkpoint, auxiliary batch norm included, in eval mode.

    It is torchvision's, which the reference trained, where the weights fit torchvision's, else timm's.

    Args:
        arch: timm's name of the architecture.
        network: timm's network, to be changed.
        checkpoint: The checkpoint.

    Raises:
        DebiasError: the weights have other names than timm's and torchvision's ResNets'.
    """
    classes = int(network.num_classes)  # type: ignore[arg-type]
    reason = None
    for candidate in filter(None, (_torchvision(arch, classes), network)):
        before = convert_aux_bn(candidate) if checkpoint.aux else candidate
        state = with_numbers_of_batches({**checkpoint.state, **checkpoint.aux}, before.state_dict())
        reason = difference(state, before.state_dict())
        if reason is None:
            before.load_state_dict(state)
            return before.eval()
    raise DebiasError(
        f'--verify: no network with the names in {checkpoint.path} is known to compare with ({reason}); leave it out'
    )


def network_after(folder: Path, aux: bool) -> nn.Module:
    """Return the network in a folder, in eval mode; `aux` where its weights hold auxiliary batch norm."""
    network = create_model(f'local-dir:{folder}', pretrained=not aux)
    if aux:
        load_state(convert_aux_bn(network), load_safetensors(folder / WEIGHTS), folder / WEIGHTS)
    return network.eval()


@torch.no_grad()
def largest_difference(before: nn.Module, after: nn.Module, images: torch.Tensor) -> float:
    """Return the largest absolute difference of a logit, in float32, over images [N, C, H, W]."""
    return max(float((before(batch) - after(batch)).abs().max()) for batch in images.split(_BATCH))


def _torchvision(arch: str, num_classes: int) -> nn.Module | None:
    if arch == 'resnext101_32x4d':  # torchvision has the network under no name.
        bottleneck = torchvision_resnet.Bottleneck
        return torchvision_resnet.ResNet(bottleneck, [3, 4, 23, 3], num_classes, groups=32, width_per_group=4)
    constructor = getattr(torchvision_resnet, arch, None)
    return constructor(num_classes=num_classes) if arch in torchvision_resnet.__all__ and constructor else None
