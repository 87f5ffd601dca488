"""The command `timm-debias stylize`: look at a stylizer before training with it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .checks import check_device, check_seed
from .data.images import find_images, read_image
from .errors import DebiasError
from .files import atomic_path, check_output
from .flags import Parser, add_flags, config_from, flag
from .log import setup_logging
from .mix import draw_partners
from .pictures import save_grid, to_picture
from .stylizers import Stylizer, create_stylizer
from .stylizers.base import MIN_SIZE
from .stylizers.registry import describe_stylizers

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StylizeConfig:
    """Stylise images"""

    content_dir: str | None = flag(None, 'folder of the images that give the shape', metavar='DIR')
    style_dir: str | None = flag(
        None, 'folder of the images that give the texture; those of --content-dir if not given', metavar='DIR'
    )
    output: str | None = flag(None, 'folder for the stylised images; with --grid, the PNG file', metavar='PATH')
    grid: int | None = flag(None, 'write one picture of N contents × N styles instead', type=int, metavar='N')
    alphas: list[float] | None = flag(
        None, 'strengths, each in [0, 1]: one for a folder (0.5), several for --grid (0.5 1)', nargs='+', type=float
    )
    stylizer: str = flag('adain_lite', 'style transfer network', metavar='NAME')
    stylizer_weights: str | None = flag(None, 'file or folder of its weights', metavar='PATH')
    img_size: int | None = flag(
        None, "size of a centre square to cut and resize to; the images' own size, 224 with --grid", type=int
    )
    seed: int = flag(0, 'seed of the pairs')
    device: str = flag('cpu', 'device')
    overwrite: bool = flag(False, 'write over files that exist')


def main(argv: Sequence[str] | None = None) -> int:
    """Stylise a folder or write a grid, as the flags say; returns the exit code.

    Raises:
        DebiasError: a mistake in the flags, before anything is written, or an unreadable or too small image.
    """
    setup_logging()
    stylizers = '; '.join(f'{name}: {text}' for name, text in describe_stylizers().items())
    parser = Parser(
        prog='timm-debias stylize',
        description='Give images the texture of others and write them to a folder, or look at a grid of pairs.',
        epilog=f'Stylizers: {stylizers}',
    )
    add_flags(parser, StylizeConfig)
    config = config_from(StylizeConfig, parser.parse_args(argv))
    output = _check(config)
    stylizer = create_stylizer(config.stylizer, config.stylizer_weights).to(config.device)
    contents = find_images(config.content_dir, '--content-dir')
    styles = find_images(config.style_dir, '--style-dir') if config.style_dir else contents
    generator = torch.Generator().manual_seed(config.seed)
    if config.grid is not None:
        _write_grid(config, stylizer, contents, styles, generator, output)
    else:
        _write_folder(config, stylizer, _pairs(contents, styles, generator), output)
    return 0


def _check(config: StylizeConfig) -> Path:
    check_device(config.device)
    check_seed(config.seed)
    if config.output is None:
        raise DebiasError('no --output: name a folder, or with --grid a PNG file')
    output = Path(config.output)
    check_output(output if config.grid is None else output.parent)
    if config.grid is None and len(config.alphas or [0.5]) != 1:
        raise DebiasError('several --alphas make a --grid; a folder takes one')
    if config.grid is not None and config.grid < 1:
        raise DebiasError(f'--grid is {config.grid}; expected at least 1')
    if config.grid is not None and output.suffix.lower() != '.png':
        raise DebiasError(f"--output '{output}': the picture of --grid is a file that ends in .png")
    for alpha in config.alphas or ():
        if not 0 <= alpha <= 1:
            raise DebiasError(f'--alphas: {alpha} lies outside [0, 1]')
    if config.img_size is not None and config.img_size < MIN_SIZE:
        raise DebiasError(f'--img-size is {config.img_size}; stylizers need at least {MIN_SIZE}')
    if config.grid is not None and output.exists() and not config.overwrite:
        raise DebiasError(f'{output} exists; choose another --output or give --overwrite')
    return output


def _pairs(contents: list[Path], styles: list[Path], generator: torch.Generator) -> list[tuple[Path, Path]]:
    """Pair each content with a style; where both are the same images, none with itself, as in training."""
    if styles is contents:
        partners = draw_partners(len(contents), generator)
    else:
        partners = torch.randint(len(styles), (len(contents),), generator=generator)
    return [(content, styles[partner]) for content, partner in zip(contents, partners.tolist(), strict=True)]


@torch.no_grad()
def _write_folder(config: StylizeConfig, stylizer: Stylizer, pairs: list[tuple[Path, Path]], output: Path) -> None:
    root = Path(config.content_dir or '')
    targets = [
        output / content.relative_to(root).parent / f'{content.stem}-{style.stem}.png' for content, style in pairs
    ]
    sources: dict[Path, Path] = {}
    for (content, _), target in zip(pairs, targets, strict=True):
        if sources.setdefault(target, content) != content:
            raise DebiasError(f'{sources[target]} and {content} would become one file, {target}; rename one of them')
    existing = [target for target in targets if target.exists()]
    if existing and not config.overwrite:
        raise DebiasError(f'{existing[0]} exists; choose another --output or give --overwrite')
    alpha = (config.alphas or [0.5])[0]
    for number, ((content, style), target) in enumerate(zip(pairs, targets, strict=True), 1):
        images = (_read(path, config.img_size)[None].to(config.device) for path in (content, style))
        stylised = stylizer(*images, alpha)[0]
        with atomic_path(target) as temporary:
            to_picture(stylised).save(temporary)
        if number % 50 == 0 or number == len(pairs):
            _logger.info(f'{number}/{len(pairs)} images')
    _logger.info(f'Stylised images: {output}')


@torch.no_grad()
def _write_grid(
    config: StylizeConfig,
    stylizer: Stylizer,
    contents: list[Path],
    styles: list[Path],
    generator: torch.Generator,
    output: Path,
) -> None:
    """Write a block of N × N a strength: contents in the left column, styles in the top row."""
    size, count = config.img_size or 224, config.grid or 1
    chosen = [_choose(paths, count, generator) for paths in (contents, styles)]
    images, textures = ([_read(path, size) for path in paths] for paths in chosen)
    blank = torch.ones(3, size, size)
    rows, titles = [], []
    for alpha in config.alphas or [0.5, 1.0]:
        rows.append([blank, *textures])
        titles.append(f'alpha {alpha:g}: shape from the left column, texture from the top row')
        for content in images:
            pairs = torch.stack([content] * len(textures)), torch.stack(textures)
            stylised = stylizer(*(batch.to(config.device) for batch in pairs), alpha)
            rows.append([content, *stylised.cpu()])
            titles.append('')
    save_grid(rows, output, row_titles=titles)
    _logger.info(f'Picture: {output}')


def _choose(paths: list[Path], count: int, generator: torch.Generator) -> list[Path]:
    if len(paths) < count:
        raise DebiasError(f'--grid {count} needs as many images; found {len(paths)} in {paths[0].parent}')
    return [paths[index] for index in sorted(torch.randperm(len(paths), generator=generator)[:count].tolist())]


def _read(path: Path, size: int | None) -> torch.Tensor:
    return read_image(path, None if size is None else (size, size))
