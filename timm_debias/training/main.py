"""The command `train.py`, also `timm-debias train`."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import get_type_hints

import torch
import yaml

from ..checks import DATA_FLAGS
from ..data.factory import SHAPES_TEXTURES
from ..flags import Parser, add_config_flag, add_flags, config_from, parse_with_yaml
from ..log import setup_logging
from ..machine import import_device_modules, init_machine
from ..stylizers.registry import describe_stylizers
from .checks import check_config
from .config import TrainConfig
from .defaults import fill_defaults
from .heap import keep_freed_memory
from .signals import Stopped
from .train import train


def main(argv: Sequence[str] | None = None) -> int:
    """Train a model as the flags say; returns the exit code, which is 128 + its number after a signal to stop.

    Raises:
        DebiasError: a mistake in the flags or the data, found before any training.
    """
    setup_logging()
    args = parse_with_yaml(build_parser(), argv, same=DATA_FLAGS)
    args_text = yaml.safe_dump(vars(args), default_flow_style=False)
    config = config_from_args(args)
    import_device_modules(config.device.device_modules)
    check_config(config)
    machine = init_machine(config.device.device)
    if machine.device.type == 'cpu':
        keep_freed_memory()
    try:
        train(config, args, args_text, machine)
    except Stopped as stopped:
        return stopped.code
    finally:
        if machine.distributed:
            torch.distributed.destroy_process_group()
    return 0


def build_parser(others: Iterable[str] = ()) -> Parser:
    """Return the parser of all flags; `others` are those that another has taken before."""
    stylizers = '; '.join(f'{name}: {text}' for name, text in describe_stylizers().items())
    parser = Parser(
        others,
        prog='train.py',
        description="Train a timm model; with --debias, on images that carry one image's shape and another's texture.",
        epilog=f'Stylizers: {stylizers} Data sets: {SHAPES_TEXTURES} is embedded and needs no --data-dir.',
    )
    add_config_flag(parser)
    for config in get_type_hints(TrainConfig).values():
        add_flags(parser, config)
    return parser


def config_from_args(args: argparse.Namespace) -> TrainConfig:
    """Sort the parsed flags into the configuration of each concern, and fill in what depends on others.

    Raises:
        DebiasError: two flags that name different losses, weights or rates.
    """
    hints = get_type_hints(TrainConfig)
    return fill_defaults(
        TrainConfig(**{field.name: config_from(hints[field.name], args) for field in fields(TrainConfig)})
    )
