"""The command `timm-debias draw`: images of the embedded data set as a folder, for programs that read folders."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from . import __version__
from .data.shapes_textures import CLASSES, SPLIT_SIZES, ShapesTextures
from .errors import DebiasError
from .files import atomic_path
from .flags import Parser, add_config_flag, add_flags, config_from, flag, parse_with_yaml
from .log import setup_logging
from .make_benchmark.manifest import claim, finish

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DrawConfig:
    """Drawing images"""

    split: str = flag('test', 'whose images', choices=[name for name in SPLIT_SIZES if name != 'conflict'])
    output: str | None = flag(None, 'folder for the images; a second call goes on where one stopped', metavar='DIR')
    img_size: int = flag(64, 'width and height in pixels', metavar='N')
    num_samples: int | None = flag(None, "number of images, the split's own if not given", type=int, metavar='N')
    seed: int = flag(0, 'another one draws another data set of the same kind', metavar='S')


def main(argv: Sequence[str] | None = None) -> int:
    """Write the images that the flags name; returns the exit code.

    Raises:
        DebiasError: a mistake in the flags, or an `--output` that holds something else.
    """
    setup_logging()
    config = config_from(DrawConfig, parse_with_yaml(build_parser(), argv))
    if config.output is None:
        raise DebiasError('no --output: name a new folder')
    dataset = ShapesTextures(config.split, config.img_size, config.seed, config.num_samples)
    parameters = {'split': config.split, 'img_size': config.img_size, 'seed': config.seed, 'images': len(dataset)}
    versions = {'timm_debias': __version__, 'numpy': numpy.__version__}
    manifest = {'kind': 'drawn', 'parameters': parameters, 'versions': versions}
    try:
        claim(Path(config.output), manifest)
        _write(dataset, Path(config.output))
        finish(Path(config.output), manifest)
    except OSError as error:
        raise DebiasError(f'stopped by {error}; once that is mended, the same command goes on from here') from error
    _logger.info(f'{len(dataset):,} images of shapes_textures, {config.split}: {config.output}')
    return 0


def build_parser() -> Parser:
    """Return the parser of all flags."""
    parser = Parser(
        prog='timm-debias draw',
        description='Write images of shapes_textures as PNG files in class folders, which sort as the classes do.',
    )
    add_config_flag(parser)
    add_flags(parser, DrawConfig)
    return parser


def _write(dataset: ShapesTextures, output: Path) -> None:
    for index in range(len(dataset)):
        label = dataset.shape_labels[index]
        path = output / f'{label}-{CLASSES[label]}' / f'{index:05d}.png'
        if not path.exists():
            image, _ = dataset[index]
            with atomic_path(path) as temporary:
                image.save(temporary)
