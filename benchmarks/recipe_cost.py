"""What the recipes in hparams/ cost on ImageNet, as an estimate.

    python benchmarks/recipe_cost.py

Prints the Markdown table of docs/training.md. The cost of plain training is an image count divided by the throughput
that timm publishes for the model (`PUBLISHED`); debiased training costs more by the multiply-adds of the stylised
images, at the sizes of the recipe, and of the stylizer, three of a forward pass making a training step. It is an
estimate: a GPU is not equally fast on every layer and size, and data loading is left out.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from timm_debias.flags import parse_with_yaml
from timm_debias.multi_grid import MultiGrid
from timm_debias.stylizers.adain_lite import AdainLite
from timm_debias.stylizers.adain_vgg19 import AdainVgg19
from timm_debias.training.config import TrainConfig
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.optim import lr_stage_ends

HPARAMS = Path(__file__).parents[1] / 'hparams'
IMAGES = 1_281_167
"""Training images of ImageNet."""

PUBLISHED = {
    'resnet50': 1218.01,
    'resnet101': 747.89,
    'resnet152': 501.44,
    'resnext101_32x4d': 609.01,
    'convnext_tiny': 819.24,
    'vit_small_patch16_224': 1057.92,
}
"""Training images a second at 224 pixels on one RTX 3090 with mixed precision and channels-last layout:
results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv of huggingface/pytorch-image-models."""

PUBLISHED_SIZE = 224
STEP = 3
"""A training step in forward passes."""


def recipes() -> list[Path]:
    """Return the recipes for ImageNet, sorted by name."""
    return sorted(path for path in HPARAMS.glob('*.yaml') if not path.stem.startswith(('quickstart', 'zoo')))


def load(path: Path) -> TrainConfig:
    """Return the configuration of a recipe."""
    return config_from_args(parse_with_yaml(build_parser(), ['-c', str(path)]))


def gpu_hours(config: TrainConfig) -> tuple[float, float]:
    """Return hours on one GPU of the baseline, and of debiased training."""
    model = config.model.model.split('.')[0]
    size = config.model.img_size or PUBLISHED_SIZE
    plain_macs = model_macs(model, PUBLISHED_SIZE)
    speed = PUBLISHED[model] * plain_macs / model_macs(model, size)
    plain = IMAGES * config.schedule.epochs / speed / 3600
    return plain, plain * relative_work(config)


def relative_work(config: TrainConfig) -> float:
    """Return the multiply-adds of debiased training as a multiple of those of the baseline."""
    model = config.model.model.split('.')[0]
    size = config.model.img_size or PUBLISHED_SIZE
    clean = STEP * model_macs(model, size)
    stylised = 0.0
    shares = size_shares(config, size)
    for side, share in shares.items():
        stylised += share * (STEP * model_macs(model, side) + stylizer_macs(config.debias.debias_stylizer, side))
    return (clean + stylised) / clean


def size_shares(config: TrainConfig, size: int) -> dict[int, float]:
    """Return the sizes of stylised images, in pixels, and the share of updates of each."""
    if not config.debias.debias_multi_grid:
        return {size: 1.0}
    grid = MultiGrid(lr_stage_ends(config), config.debias.debias_min_size)
    epochs = range(config.schedule.epochs)
    sides = [grid.size((size, size), epoch, update)[0] for epoch in epochs for update in (0, 1)]
    return {side: sides.count(side) / len(sides) for side in sorted(set(sides))}


@cache
def model_macs(name: str, size: int) -> int:
    """Return the multiply-adds of a forward pass of a timm model for one image."""
    with torch.device('meta'):
        return _macs(timm.create_model(name).eval(), torch.empty(1, 3, size, size))


@cache
def stylizer_macs(name: str, size: int) -> int:
    """Return the multiply-adds of stylising one image of a batch, encoded once."""
    stylizer = {'adain_lite': AdainLite, 'adain_vgg19': AdainVgg19}[name]().eval()
    return _macs(lambda images: stylizer.mix(images, torch.tensor([0]), 0.5), torch.zeros(1, 3, size, size))


def cost_line(config: TrainConfig) -> str:
    """Return the line on cost in the head of a recipe."""
    plain, debiased = gpu_hours(config)
    machine = 'one RTX 3090' if config.device.amp else 'one RTX 3090 with --amp --channels-last'
    return f'# Cost: about {debiased:.0f} hours on {machine}, the first baseline {plain:.0f}; see docs/training.md.'


def table() -> str:
    """Return the Markdown table of all recipes."""
    rows = [
        '| recipe | epochs | multiply-adds, debiased / baseline | GPU hours, baseline | GPU hours, debiased |',
        '| --- | --- | --- | --- | --- |',
    ]
    for path in recipes():
        config = load(path)
        plain, debiased = gpu_hours(config)
        work = relative_work(config)
        rows.append(f'| `{path.stem}` | {config.schedule.epochs} | {work:.2f} | {plain:.0f} | {debiased:.0f} |')
    return '\n'.join(rows)


@torch.no_grad()
def _macs(call: Any, images: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        call(images)
    return counter.get_total_flops() // 2


if __name__ == '__main__':
    print(table())
    sys.exit(0)
