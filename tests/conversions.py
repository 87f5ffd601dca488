"""Converts checkpoints of a tiny network, for tests."""

from pathlib import Path

import timm
import torch
from torch import nn

from timm_debias.cli import main

IMAGE_SIZE = 64


@torch.no_grad()
def logits(network: nn.Module) -> torch.Tensor:
    images = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))
    return network.eval()(images)


def convert(*argv) -> int:
    return main(['convert', *map(str, argv)])


def error(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith('timm-debias convert: error: '), lines
    return lines[-1]


def tiny(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model('test_resnet', num_classes=5).eval()


def loaded(folder: Path) -> nn.Module:
    return timm.create_model(f'local-dir:{folder}', pretrained=True).eval()


def save_small(folder: Path) -> Path:
    """Write a checkpoint of timm's smallest ResNet with 5 classes, as torchvision's scripts do."""
    path = folder / 'model.pth'
    torch.save({'model': tiny().state_dict(), 'epoch': 3}, path)
    return path
