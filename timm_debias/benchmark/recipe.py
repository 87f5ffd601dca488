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
from ..markdown import table_lines
from ..multi_grid import MultiGrid
from ..stylizers import Stylizer
from ..training.config import TrainConfig
from ..training.main import build_parser, config_from_args
from ..training.optim import last_epoch, lr_stage_ends
from .config import BenchmarkConfig, ProjectConfig, SetupConfig, setup_from
from .cost_model import size_shares
from .device_use import STEP
from .size import count_macs, model_size
from .steps import DebiasedModel, PlainModel, Step
from .suite import every_stylizer
from .timing import ratio_of, summary, time_in_turns
from .traffic import (
    BACKWARD,
    Payload,
    all_reduce_bytes,
    exchanged_style_bytes,
    gathered_style_bytes,
    payload,
    waiting_seconds,
)

_logger = logging.getLogger(__name__)

_HPARAMS = Path('hparams')
_WORLD_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)


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
    options: dict[str, Any] = {} if recipe.model.num_classes is None else {'num_classes': recipe.model.num_classes}
    sent = payload(timm.create_model(model, **options), stylizer.cpu(), side, not recipe.debias.no_debias_aux_bn)
    if recipe.debias.debias_style_dir is not None:
        sent = sent._replace(style=0)
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
    try:
        recipe = config_from_args(parse_with_yaml(build_parser(), ['-c', str(path)]))
    except DebiasError as error:
        raise DebiasError(f'--project-recipe {name}: {str(error).removeprefix(f"-c {path}: ")}') from error
    if not recipe.debias.debias:
        raise DebiasError(f'--project-recipe {name}: the recipe does not train debiased (debias: true)')
    return recipe


def recipe_side(recipe: TrainConfig) -> int:
    """Return the side of the recipe's images in pixels."""
    if recipe.model.img_size is not None:
        return recipe.model.img_size
    if recipe.model.input_size is not None:
        return recipe.model.input_size[-1]
    cfg: Any = timm.get_pretrained_cfg(recipe.model.model)
    return (cfg.input_size if cfg is not None else (3, 224, 224))[-1]


def trained_epochs(recipe: TrainConfig) -> int:
    """Return how many epochs the recipe trains, warm-up before and cool-down after the schedule included."""
    return last_epoch(recipe, int(lr_stage_ends(recipe)[-1]))


def stylised_shares(recipe: TrainConfig) -> dict[int, float]:
    """Return the sides of the recipe's stylised images in pixels, and the share of all updates with each."""
    side = recipe_side(recipe)
    if not recipe.debias.debias_multi_grid:
        return {side: 1.0}
    multi_grid = MultiGrid(lr_stage_ends(recipe), recipe.debias.debias_min_size)
    return size_shares(multi_grid, side, trained_epochs(recipe))


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
    epochs, batch, world = trained_epochs(recipe), recipe.model.batch_size, project_config.world_size
    hours = epochs * project_config.num_images * cost.plain / 3600
    lines = [
        f'{name}: {recipe.model.model}, {epochs} epochs of {project_config.num_images:,} images, {batch} clean images '
        f'a process, stylizer {recipe.debias.debias_stylizer}, stylised images of {sides} pixels a side.',
        f'{cost.source}; validation and waiting for data come on top.',
        '',
        *table_lines(
            ['', 'plain', 'debiased'],
            [
                ['cost of a step, plain steps', '1', f'{ratio:.2f}'],
                ['clean images a second and device', _rate(1 / cost.plain), _rate(1 / cost.plain / ratio)],
                ['device hours', f'{hours:,.1f}', f'{hours * ratio:,.1f}'],
                [f'hours on {world} devices', f'{hours / world:,.1f}', f'{hours * ratio / world:,.1f}'],
            ],
        ),
        '',
        *_traffic_lines(recipe, cost.plain * ratio * batch, hours * ratio, sent, project_config.bandwidth),
    ]
    return '\n'.join(lines) + '\n'


def _rate(images: float) -> str:
    return f'{images:,.0f}' if images >= 100 else f'{images:.2f}'


def _traffic_lines(recipe: TrainConfig, step: float, hours: float, sent: Payload, bandwidth: float | None) -> list[str]:
    """Return a table over numbers of devices: `step` in seconds, `hours` on one device, `bandwidth` in GB a second."""
    batch, batches = recipe.model.batch_size, recipe.model.grad_accum_steps
    accumulated = f', once for {batches} steps' if batches > 1 else ''
    header = ['devices', 'hours', 'all-reduce, MB', 'GB/s that hide it', 'styles exchanged, MB', 'styles gathered, MB']
    if bandwidth is not None:
        header.insert(2, f'hours at {bandwidth:g} GB/s')
    lines = [
        f'An update sends gradients of {sent.gradients / 1e6:,.1f} MB{accumulated}, of which '
        f'{sent.aux_gradients / 1e6:,.2f} MB for auxiliary batch norm; a step sends to all batch norm statistics of '
        f'{sent.buffers / 1e6:,.2f} MB. {_styles_sentence(recipe, sent)}',
        '',
    ]
    rows = []
    for world in _WORLD_SIZES:
        reduced = all_reduce_bytes(sent.gradients, world)
        exchanged = exchanged_style_bytes(sent.style, batch, world)
        cells = [
            f'{world:,}',
            f'{hours / world:,.2f}',
            f'{reduced / 1e6:,.1f}',
            f'{reduced / 1e9 / (BACKWARD * step):,.2f}',
            f'{exchanged / 1e6:,.1f}',
            f'{gathered_style_bytes(sent.style, batch, world) / 1e6:,.0f}',
        ]
        if bandwidth is not None:
            exposed = batches * (sent.buffers + (exchanged if recipe.debias.debias_global_partners else 0))
            waiting = waiting_seconds(reduced, exposed, 1e9 * bandwidth, step)
            cells.insert(2, f'{hours / world * (1 + waiting / (batches * step)):,.2f}')
        rows.append(cells)
    return [*lines, *table_lines(header, rows)]


def _styles_sentence(recipe: TrainConfig, sent: Payload) -> str:
    if recipe.debias.debias_style_dir is not None:
        return 'Styles come from a folder that every process reads, so that none are sent.'
    size = f'{sent.style / 1e3:,.1f} kB each'
    if recipe.debias.debias_global_partners:
        return (
            f'Partners are drawn from the whole batch: in each step, each style ({size}) is sent to the process that '
            'draws it. The last column is what sending each to all would take.'
        )
    return (
        f'Partners are drawn within a process, so that styles ({size}) are not sent; the last two columns are what '
        '--debias-global-partners would send in each step, each style to the process that draws it, and what sending '
        'each to all would take.'
    )


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
