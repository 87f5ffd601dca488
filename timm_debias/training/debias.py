"""Builds the debiased training task from the flags."""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import nn

from ..clean_augment import CleanAugment
from ..data.images import find_images, read_image
from ..errors import DebiasError
from ..machine import Machine
from ..multi_grid import MultiGrid
from ..style_bank import StyleBank
from ..stylizers import Stylizer, create_stylizer
from ..stylizers.base import MIN_SIZE
from ..task import DebiasTask, create_debias_task
from .config import TrainConfig
from .input_size import forward_error
from .optim import lr_stage_ends

_logger = logging.getLogger(__name__)

_READ_AHEAD = 64
"""Style images that are decoded at a time."""


def build_debias_task(
    config: TrainConfig,
    model: nn.Module,
    criterion: nn.Module,
    input_config: dict[str, Any],
    num_classes: int,
    machine: Machine,
    common: dict[str, Any],
) -> DebiasTask:
    """Create the task of `--debias`; `common` holds what every task of timm takes.

    Raises:
        DebiasError: the stylizer or its weights, the style images, or a size of multi-grid that the model cannot take.
    """
    debias = config.debias
    stylizer = create_stylizer(debias.debias_stylizer, debias.debias_stylizer_weights).to(machine.device)
    image_size: tuple[int, int] = tuple(input_config['input_size'][1:])
    # Drawn together, the partners are the same draw in all processes.
    seed = config.run.seed + (0 if debias.debias_global_partners else machine.rank)
    return create_debias_task(
        model,
        stylizer,
        num_classes=num_classes,
        gamma=debias.gamma,
        alpha=debias.debias_alpha,
        aux_bn=not debias.no_debias_aux_bn,
        base_loss=criterion,
        clean_augment=build_clean_augment(config, num_classes, machine),
        multi_grid=build_multi_grid(config, model, image_size, machine),
        style_bank=build_style_bank(debias.debias_style_dir, stylizer, image_size, machine),
        mean=input_config['mean'],
        std=input_config['std'],
        generator=torch.Generator().manual_seed(seed),
        global_partners=debias.debias_global_partners,
        **common,
    )


def build_clean_augment(config: TrainConfig, num_classes: int, machine: Machine) -> CleanAugment:
    """Create what timm's loader would do: Mixup, CutMix and random erasing, for the clean half."""
    augment = config.augment
    mixup_options = augment.mixup_kwargs(num_classes)
    erasing = None
    if augment.reprob > 0 and not augment.no_aug:
        erasing = RandomErasing(augment.reprob, mode=augment.remode, max_count=augment.recount, device=machine.device)
    return CleanAugment(Mixup(**mixup_options) if mixup_options else None, erasing)


def build_style_bank(
    folder: str | None, stylizer: Stylizer, image_size: tuple[int, int], machine: Machine
) -> StyleBank | None:
    """Take the styles of all images in a folder, cut and resized to `image_size` (height, width); None of no folder."""
    if folder is None:
        return None
    paths = find_images(folder, '--debias-style-dir')
    bank = StyleBank(stylizer, (image.to(machine.device) for image in _read_images(paths, image_size)))
    if machine.is_primary:
        megabytes = sum(tensor.nbytes for tensor in bank.styles) / 1e6
        _logger.info(f'{len(bank):,} styles of {folder}: {megabytes:,.1f} MB a process.')
    return bank


def _read_images(paths: Sequence[Path], image_size: tuple[int, int]) -> Iterator[torch.Tensor]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), _READ_AHEAD):
            yield from pool.map(partial(read_image, size=image_size), paths[start : start + _READ_AHEAD])


def build_multi_grid(
    config: TrainConfig, model: nn.Module, image_size: tuple[int, int], machine: Machine
) -> MultiGrid | None:
    """Create the sizes of `--debias-multi-grid`; None without it.

    Raises:
        DebiasError: stylizer or model do not take one of the sizes, found by a forward on zeros.
    """
    if not config.debias.debias_multi_grid:
        return None
    multi_grid = MultiGrid(lr_stage_ends(config), config.debias.debias_min_size)
    image_sizes = [(side, side) for side in config.sizes.train_img_sizes or ()] or [image_size]
    sizes = sorted({size for whole in image_sizes for size in multi_grid.sizes(whole)})
    if min(sizes[0]) < MIN_SIZE:
        raise DebiasError(
            f'--debias-multi-grid shrinks images to {sizes[0][0]}×{sizes[0][1]} pixels, and stylizers need at least '
            f'{MIN_SIZE}×{MIN_SIZE}: give a --debias-min-size or larger images'
        )
    for size in sizes:
        reason = forward_error(model, (3, *size), machine)
        if reason is not None:
            names = ', '.join(f'{height}×{width}' for height, width in sizes)
            raise DebiasError(
                f'--debias-multi-grid trains on images of {names} pixels, and the model does not take '
                f"{size[0]}×{size[1]} ({reason}): leave it out, or let the model take any size (timm's ViTs: "
                '--model-kwargs dynamic_img_size=True dynamic_img_pad=True)'
            )
    return multi_grid
