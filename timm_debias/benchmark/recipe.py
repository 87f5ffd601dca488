"""What training by a recipe will take: hours, and traffic between devices."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm

from ..errors import DebiasError, did_you_mean
from ..flags import parse_with_yaml
from ..multi_grid import MultiGrid
from ..stylizers import Stylizer
from ..training.config import TrainConfig
from ..training.main import build_parser, config_from_args
from ..training.optim import lr_stage_ends
from .config import BenchmarkConfig, ProjectConfig, SetupConfig, setup_from
from .cost_model import size_shares
from .device_use import STEP
from .size import count_macs, model_size
from .steps import DebiasedModel, PlainModel, Step
from .suite import every_stylizer
from .timing import ratio_of, summary, time_in_turns
from .traffic import Payload, all_reduce_bytes, exchanged_style_bytes, gathered_style_bytes, payload

_logger = logging.getLogger(__name__)

_HPARAMS = Path('hparams')
_WORLD_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
_BACKWARD = 2 / 3
"""Share of a step, the time in which gradients can be reduced while others are still computed."""


@dataclass(frozen=True)
class Cost:
    """What one device does.

    Attributes:
        plain: Seconds of a plain step for one image.
        ratio: The debiased step in plain steps, averaged over the recipe's updates.
        source: Where these come from, in a sentence without its full stop.
    """

    plain: float
    ratio: float
    source: str


def project(config: BenchmarkConfig, setup_config: SetupConfig, project_config: ProjectConfig) -> str:
    """Return the projection for `--project-recipe` as Markdown.

    Raises:
        DebiasError: no such recipe, one that does not train debiased, or flags that the recipe sets.
    """
    name = str(config.project_recipe)
    recipe = read_recipe(name)
    model, side = recipe.model.model, recipe_side(recipe)
    if (setup_config.model, setup_config.img_size) != (SetupConfig.model, SetupConfig.img_size):
        raise DebiasError(f'--model and --img-size are those of the recipe {name}: leave them out')
    stylizer = _stylizer(recipe.debias.debias_stylizer)
    if project_config.images_per_second is None:
        cost = _measured_cost(recipe, replace(setup_config, model=model, img_size=side), stylizer, config.repeats)
    else:
        source = 'Plain speed as given, ratio from multiply-adds'
        cost = Cost(1 / project_config.images_per_second, relative_work(recipe, partial(count_macs, stylizer)), source)
    sent = payload(timm.create_model(model), stylizer.cpu(), side)
    return format_projection(name, recipe, cost, sent, project_config)


def read_recipe(name: str) -> TrainConfig:
    """Return the configuration in a YAML file of train.py: `name`, or `name`.yaml in ./hparams.

    Raises:
        DebiasError: no such recipe, or one that is not for debiased training.
    """
    path = Path(name)
    if not path.suffix:
        path = _HPARAMS / f'{name}.yaml'
        if not path.is_file():
            known = [file.stem for file in _HPARAMS.glob('*.yaml')]
            hint = did_you_mean(name, known) if known else 'There is no folder hparams here: give the path of a file.'
            raise DebiasError(f"--project-recipe: no recipe '{name}' in ./hparams. {hint}")
    recipe = config_from_args(parse_with_yaml(build_parser(), ['-c', str(path)]))
    if not recipe.debias.debias:
        raise DebiasError(f'--project-recipe {name}: the recipe does not train debiased (debias: true)')
    return recipe


def recipe_side(recipe: TrainConfig) -> int:
    """Return the side of the recipe's images in pixels."""
    if recipe.model.img_size is not None:
        return recipe.model.img_size
    cfg: Any = timm.get_pretrained_cfg(recipe.model.model)
    return (cfg.input_size if cfg is not None else (3, 224, 224))[-1]


def stylised_shares(recipe: TrainConfig) -> dict[int, float]:
    """Return the sides of the recipe's stylised images in pixels, and the share of all updates with each."""
    side = recipe_side(recipe)
    if not recipe.debias.debias_multi_grid:
        return {side: 1.0}
    multi_grid = MultiGrid(lr_stage_ends(recipe), recipe.debias.debias_min_size)
    return size_shares(multi_grid, side, recipe.schedule.epochs)


def relative_work(recipe: TrainConfig, stylizer_macs: Callable[[int], int]) -> float:
    """Return the multiply-adds of debiased training over those of plain training on the clean images.

    Args:
        recipe: What is trained.
        stylizer_macs: Multiply-adds of stylising an image, for its side in pixels.
    """
    clean = STEP * model_size(recipe.model.model, recipe_side(recipe)).macs
    stylised = 0.0
    for side, share in stylised_shares(recipe).items():
        stylised += share * (STEP * model_size(recipe.model.model, side).macs + stylizer_macs(side))
    return 1 + stylised / clean


def format_projection(name: str, recipe: TrainConfig, cost: Cost, sent: Payload, project_config: ProjectConfig) -> str:
    """Return the projection as Markdown: hours on the devices asked for, then traffic and hours on more of them."""
    ratio, sides = cost.ratio, ', '.join(f'{side} ({share:.0%})' for side, share in stylised_shares(recipe).items())
    epochs, batch, world = recipe.schedule.epochs, recipe.model.batch_size, project_config.world_size
    hours = epochs * project_config.num_images * cost.plain / 3600
    lines = [
        f'{name}: {recipe.model.model}, {epochs} epochs of {project_config.num_images:,} images, {batch} clean images '
        f'a process, stylizer {recipe.debias.debias_stylizer}, stylised images of {sides} pixels a side.',
        f'{cost.source}; validation and waiting for data come on top.',
        '',
        '| | plain | debiased |',
        '| --- | --- | --- |',
        f'| cost of a step, plain steps | 1 | {ratio:.2f} |',
        f'| clean images a second and device | {1 / cost.plain:,.0f} | {1 / cost.plain / ratio:,.0f} |',
        f'| device hours | {hours:,.1f} | {hours * ratio:,.1f} |',
        f'| hours on {world} devices | {hours / world:,.1f} | {hours * ratio / world:,.1f} |',
        '',
        *_traffic_lines(batch, cost.plain * ratio * batch, hours * ratio, sent),
    ]
    return '\n'.join(lines) + '\n'


def _traffic_lines(batch: int, step: float, device_hours: float, sent: Payload) -> list[str]:
    lines = [
        f'A step sends gradients of {sent.gradients / 1e6:,.1f} MB, of which {sent.aux_gradients / 1e6:,.2f} MB for '
        f'auxiliary batch norm, and to all at each forward batch norm statistics of {sent.buffers / 1e6:,.2f} MB.',
        f'Partners are drawn within a process, so that styles ({sent.style / 1e3:,.1f} kB each) are not sent; the last '
        'two columns are what drawing them from the whole batch would take: each style sent to the process that draws '
        'it, or to all.',
        '',
        '| devices | hours | all-reduce, MB a step | GB/s that hide it | styles exchanged, MB | styles gathered, MB |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for world in _WORLD_SIZES:
        reduced = all_reduce_bytes(sent.gradients, world)
        cells = (
            f'{world:,}',
            f'{device_hours / world:,.2f}',
            f'{reduced / 1e6:,.1f}',
            f'{reduced / 1e9 / (_BACKWARD * step):,.2f}',
            f'{exchanged_style_bytes(sent.style, batch, world) / 1e6:,.1f}',
            f'{gathered_style_bytes(sent.style, batch, world) / 1e6:,.0f}',
        )
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def _measured_cost(recipe: TrainConfig, setup_config: SetupConfig, stylizer: Stylizer, repeats: int) -> Cost:
    setup = setup_from(setup_config)
    n, shares = setup.batch_size, stylised_shares(recipe)
    _logger.info(f'Measuring {setup.model} at {setup.img_size} pixels with {n} clean images on {setup.device}.')
    debiased = DebiasedModel(setup)
    calls: dict[str, Step] = {'plain': PlainModel(setup).step(n)}
    for side in shares:
        calls[str(side)] = debiased.step(stylizer, side if recipe.debias.debias_multi_grid else None)
    seconds = time_in_turns(calls, repeats, setup.device)
    ratio = sum(share * ratio_of(seconds[str(side)], seconds['plain']).median for side, share in shares.items())
    return Cost(summary(seconds['plain']).median / n, ratio, f'Measured on this {setup.device.type}, {n} clean images')


def _stylizer(name: str) -> Stylizer:
    stylizers = every_stylizer()
    if name not in stylizers:
        raise DebiasError(f"--project-recipe: unknown stylizer '{name}'. {did_you_mean(name, stylizers)}")
    return stylizers[name]
