"""The command `timm-debias stylizer-report`."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..benchmark.size import IMG_SIZE, count_macs, count_parameters
from ..benchmark.stylisation import time_stylizers
from ..bounds import NOT_NEGATIVE, at_least, check_bounds
from ..checks import check_seed
from ..data.shapes_textures import CLASSES
from ..errors import DebiasError
from ..files import check_output, write_text
from ..flags import Parser, add_flags, config_from
from ..log import setup_logging
from ..markdown import table_lines
from ..pictures import save_grid
from ..stylizer_training.data import Crops, find_images
from ..stylizer_training.measure import Transfer, psnr, texture_removed
from ..stylizer_training.texture import MIN_SIDE, RandomTexture
from ..stylizers import Stylizer
from ..stylizers.registry import create_stylizers, describe_stylizers
from .config import StylizerReportConfig
from .readers import CueReader, read_cues, train_reader
from .statistics import REFERENCES, statistics_removed

_logger = logging.getLogger(__name__)

_READER_SEED, _PAIRS_SEED = 1000, 2000
"""Added to the seed, so that the images the reader learned from, and those it is asked about, are apart."""

_READ_SIZE = 64
_JUDGES = 5
"""Sets of random filters, whose answers differ by several points."""

_PICTURES = 6
_ALPHAS = (0.5, 1.0)

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the stylizers that the flags name; returns the exit code.

    Raises:
        DebiasError: a mistake in the flags or the data, before any measurement.
    """
    setup_logging()
    known = '; '.join(f'{name}: {text}' for name, text in describe_stylizers().items())
    parser = Parser(
        prog='timm-debias stylizer-report',
        description='Measure stylizers on held-out photographs and on drawn images whose shape and texture are known: '
        f'JSON, a table and a picture in --output. Stylizers: {known}',
    )
    add_flags(parser, StylizerReportConfig)
    config = config_from(StylizerReportConfig, parser.parse_args(argv))
    output = check_output(config.output)
    stylizers = _create(config)
    _, held_out = find_images(config.data_dir or [], config.max_images, config.seed)
    crops = Crops(held_out, config.img_size)
    images = crops.sample(len(crops), torch.Generator().manual_seed(config.seed))
    _logger.info(f'{len(images)} held-out photographs at {config.img_size} pixels, {config.pairs} drawn pairs.')
    report = _report(config, stylizers, images)
    write_text(output / 'report.json', json.dumps(report, indent=4) + '\n')
    table = format_table({**report['stylizers'], **report['references']})
    write_text(output / 'report.md', table)
    _save_picture(stylizers, images, output / 'report.png')
    _logger.info(f'Report and picture: {output}')
    print(table, end='')
    return 0


def _create(config: StylizerReportConfig) -> dict[str, Stylizer]:
    if not config.data_dir:
        raise DebiasError('no photographs: give --data-dir DIR')
    check_seed(config.seed)
    bounds = {at_least(MIN_SIDE): ('img_size',), at_least(len(CLASSES)): ('pairs',), NOT_NEGATIVE: ('repeats',)}
    check_bounds([config], bounds)
    if config.pairs % len(CLASSES):
        raise DebiasError(f'--pairs is {config.pairs}; expected a multiple of the {len(CLASSES)} classes')
    return create_stylizers(config.stylizers, config.weights or [], '--weights')


def _report(config: StylizerReportConfig, stylizers: Mapping[str, Stylizer], images: torch.Tensor) -> dict[str, Any]:
    reader = train_reader(config.seed + _READER_SEED, _READ_SIZE)
    judges = [RandomTexture(seed=config.seed + number) for number in range(1, _JUDGES + 1)]
    unstylised = read_cues(reader, None, 0.0, _READ_SIZE, config.pairs, config.seed + _PAIRS_SEED)
    _logger.info(
        f'The reader names {100 * unstylised["shape"]:.1f} % of shapes and '
        f'{100 * unstylised["content_texture"]:.1f} % of textures before stylisation.'
    )
    times = time_stylizers(stylizers, repeats=config.repeats) if config.repeats else {}
    rows = {}
    for name, stylizer in stylizers.items():
        rows[name] = _measure(config, stylizer, reader, judges, images) | times.get(name, {})
        _logger.info(f'{name}: measured.')
    references = {
        name: {
            **_texture_removed(transfer, images, judges),
            'statistics_removed': statistics_removed(transfer, images, reader),
        }
        for name, transfer in REFERENCES.items()
    }
    settings = {'threads': torch.get_num_threads(), 'torch': torch.__version__}
    return {'config': vars(config) | settings, 'reader': unstylised, 'stylizers': rows, 'references': references}


def _measure(
    config: StylizerReportConfig,
    stylizer: Stylizer,
    reader: CueReader,
    judges: Sequence[RandomTexture],
    images: torch.Tensor,
) -> Row:
    row: Row = {'psnr': psnr(stylizer, images), **_texture_removed(stylizer, images, judges)}
    row['statistics_removed'] = statistics_removed(stylizer, images, reader)
    for alpha in _ALPHAS:
        cues = read_cues(reader, stylizer, alpha, _READ_SIZE, config.pairs, config.seed + _PAIRS_SEED)
        row |= {f'{name}@{alpha:g}': value for name, value in cues.items()}
    return row | {'parameters': count_parameters(stylizer), 'macs': count_macs(stylizer)}


def _texture_removed(transfer: Transfer, images: torch.Tensor, judges: Sequence[RandomTexture]) -> dict[str, float]:
    shares = [texture_removed(transfer, images, judge) for judge in judges]
    return {'texture_removed': sum(shares) / len(shares), 'texture_removed_least': min(shares)}


def format_table(rows: Mapping[str, Row]) -> str:
    """Return the report as a Markdown table, a row a measure and a column a stylizer."""
    percent = '{:.1f} %'
    lines: list[tuple[str, str, str, float]] = [
        ('Reconstruction at α 0, PSNR in dB', 'psnr', '{:.2f}', 1),
        (f"Distance to the partner's texture removed at α 1, {_JUDGES} judges' mean", 'texture_removed', percent, 100),
        ('The same, judge that sees least removed', 'texture_removed_least', percent, 100),
        ("Distance to the partner's feature statistics removed at α 1", 'statistics_removed', percent, 100),
    ]
    for alpha in _ALPHAS:
        lines += [
            (f"Content's shape read at α {alpha:g}", f'shape@{alpha:g}', percent, 100),
            (f"Partner's texture read at α {alpha:g}", f'texture@{alpha:g}', percent, 100),
            (f"Content's own texture still read at α {alpha:g}", f'content_texture@{alpha:g}', percent, 100),
        ]
    lines += [
        ('Parameters, millions', 'parameters', '{:.2f}', 1e-6),
        (f'GMAC for an image at {IMG_SIZE}', 'macs', '{:.2f}', 1e-9),
        ('Time as a share of a ResNet-50 training step', 'ratio', '{:.3f}', 1),
    ]
    table = [
        [title, *(pattern.format(factor * row[key]) if key in row else '–' for row in rows.values())]
        for title, key, pattern, factor in lines
    ]
    return '\n'.join(table_lines(['', *rows], table)) + '\n'


@torch.no_grad()
def _save_picture(stylizers: Mapping[str, Stylizer], images: torch.Tensor, path: Path) -> None:
    content, style = images[:_PICTURES], images.roll(-1, dims=0)[:_PICTURES]
    columns = [content, style]
    titles = ['content', 'partner']
    for name, stylizer in stylizers.items():
        for alpha in _ALPHAS:
            columns.append(stylizer(content, style, alpha))
            titles.append(f'{name} {alpha:g}')
    save_grid([list(row) for row in zip(*columns, strict=True)], path, titles)
