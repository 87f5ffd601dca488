"""What the recipes in hparams/ cost on ImageNet, as an estimate.

    python benchmarks/recipe_cost.py

Prints the Markdown table of docs/training.md. The cost of plain training is an image count divided by the throughput
that timm publishes for the model (`PUBLISHED`); debiased training costs more by the multiply-adds of the stylised
images, at the sizes of the recipe, and of the stylizer, three of a forward pass making a training step. It is an
estimate: a GPU is not equally fast on every layer and size, and data loading is left out.
"""

import sys
from functools import cache, partial
from pathlib import Path

from timm_debias.benchmark.config import IMAGENET_IMAGES
from timm_debias.benchmark.recipe import read_recipe, recipe_side, relative_work, trained_epochs
from timm_debias.benchmark.size import count_macs, model_size
from timm_debias.benchmark.suite import every_stylizer
from timm_debias.markdown import table_lines
from timm_debias.training.config import TrainConfig

HPARAMS = Path(__file__).parents[1] / 'hparams'

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


def recipes() -> list[Path]:
    """Return the recipes for ImageNet, sorted by name."""
    return sorted(path for path in HPARAMS.glob('*.yaml') if not path.stem.startswith(('quickstart', 'zoo', 'study')))


def load(path: Path) -> TrainConfig:
    """Return the configuration of a recipe."""
    return read_recipe(str(path))


def gpu_hours(config: TrainConfig) -> tuple[float, float]:
    """Return hours on one GPU of the baseline, and of debiased training."""
    model = config.model.model.split('.')[0]
    macs = {size: model_size(model, size).macs for size in (PUBLISHED_SIZE, recipe_side(config))}
    speed = PUBLISHED[model] * macs[PUBLISHED_SIZE] / macs[recipe_side(config)]
    plain = IMAGENET_IMAGES * trained_epochs(config) / speed / 3600
    return plain, plain * work(config)


def work(config: TrainConfig) -> float:
    """Return the multiply-adds of debiased training as a multiple of those of the baseline."""
    return relative_work(config, partial(stylizer_macs, config.debias.debias_stylizer))


@cache
def stylizer_macs(name: str, side: int) -> int:
    """Return the multiply-adds of stylising an image."""
    return count_macs(every_stylizer()[name], side)


def cost_line(config: TrainConfig) -> str:
    """Return the line on cost in the head of a recipe."""
    plain, debiased = gpu_hours(config)
    machine = 'one RTX 3090' if config.device.amp else 'one RTX 3090 with --amp --channels-last'
    return f'# Cost: about {debiased:.0f} hours on {machine}, the first baseline {plain:.0f}; see docs/training.md.'


def table() -> str:
    """Return the Markdown table of all recipes."""
    head = ('recipe', 'epochs', 'multiply-adds, debiased / baseline', 'GPU hours, baseline', 'GPU hours, debiased')
    rows = []
    for path in recipes():
        config = load(path)
        plain, debiased = gpu_hours(config)
        cells = (f'{trained_epochs(config)}', f'{work(config):.2f}', f'{plain:.0f}', f'{debiased:.0f}')
        rows.append((f'`{path.stem}`', *cells))
    return '\n'.join(table_lines(head, rows))


if __name__ == '__main__':
    print(table())
    sys.exit(0)
