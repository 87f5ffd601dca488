"""The command `timm-debias make-benchmark`."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import PIL
import torch

from .. import __version__
from ..data.images import check_readable
from ..errors import DebiasError
from ..flags import Parser, add_config_flag, add_flags, config_from, parse_with_yaml
from ..hashing import hash_weights
from ..log import setup_logging
from ..metrics import SEVERITIES
from ..stylizers import create_stylizer
from ..stylizers.base import MIN_SIZE
from ..stylizers.registry import describe_stylizers
from .config import (
    CONFIGS,
    KINDS,
    CommonConfig,
    CorruptedConfig,
    CueConflictConfig,
    StylizedConfig,
    StylizerConfig,
    check_numbers,
)
from .corrupt import QUALITY, write_corrupted
from .manifest import Manifest, claim, finish
from .pairs import Pair, conflict_pairs, stylized_pairs
from .source import Source, find_source, find_styles, fingerprint
from .stylise import write_pairs

_logger = logging.getLogger(__name__)

LABELS = {
    'stylized': 'Stylized-ImageNet-style, not Stylized-ImageNet',
    'corrupted': 'ImageNet-C-style, not ImageNet-C',
    'cue-conflict': 'cue-conflict-style, not the images of Geirhos et al.',
}
"""What the manifest says of the images."""

_TITLES = {
    'stylized': 'Stylised images (in the manner of Stylized-ImageNet, not it)',
    'corrupted': 'Corrupted images (in the manner of ImageNet-C, not it)',
    'cue-conflict': 'Cue-conflict images (in the manner of Geirhos et al., not theirs)',
}


@dataclass(frozen=True)
class _Plan:
    """What is to be made: what goes into the manifest, how many files, and the work itself."""

    manifest: Manifest
    files: int
    write: Callable[[], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Make the benchmark that the flags describe, or the rest of it; returns the exit code.

    Raises:
        DebiasError: a mistake in the flags or the data or an `--output` that holds something else, before any work.
    """
    setup_logging()
    args = parse_with_yaml(build_parser(), argv)
    configs: dict[type, Any] = {config: config_from(config, args) for config in CONFIGS}
    check_numbers(args.kind, configs)
    common = configs[CommonConfig]
    source = find_source(common.data_dir, common.split)
    output = _output(common.output, source.root, configs[StylizedConfig].style_dir)
    plan = {'stylized': _plan_stylized, 'corrupted': _plan_corrupted, 'cue-conflict': _plan_cue_conflict}[args.kind](
        configs, source, output
    )
    manifest = {'kind': args.kind, 'label': LABELS[args.kind], 'files': plan.files} | plan.manifest
    made = f'{_TITLES[args.kind]}: {plan.files:,} files of {len(source.names):,} images'
    try:
        claim(output, manifest)
        _logger.info(f'{made}.')
        plan.write()
        finish(output, manifest)
    except BrokenProcessPool as error:
        raise DebiasError(
            'one of the --workers died, perhaps for lack of memory; the same command, with fewer if need be, goes on '
            'from here'
        ) from error
    except OSError as error:
        raise DebiasError(f'stopped by {error}; once that is mended, the same command goes on from here') from error
    print(f'{made} in {output}')
    return 0


def build_parser() -> Parser:
    """Return the parser of all flags."""
    stylizers = '; '.join(f'{name}: {text}' for name, text in describe_stylizers().items())
    parser = Parser(
        prog='timm-debias make-benchmark',
        description='Make a test of robustness from a folder of class folders: images with the texture of others '
        '(stylized), 15 corruptions at five severities (corrupted), or the shape of one class with the texture of '
        'another (cue-conflict). The same command goes on where an interrupted one stopped.',
        epilog=f'Stylizers: {stylizers}',
    )
    parser.add_argument('kind', choices=list(KINDS), help='what to make')
    add_config_flag(parser)
    for config in CONFIGS:
        add_flags(parser, config)
    return parser


def _output(output: str | None, root: Path, style_dir: str | None) -> Path:
    if output is None:
        raise DebiasError('no --output: name a new folder')
    place = Path(output).resolve()
    read = [root] if style_dir is None else [root, Path(style_dir).resolve()]
    for folder in read:
        if place.is_relative_to(folder):
            raise DebiasError(f'--output {output} lies inside {folder}, which is read; choose a folder outside')
    return Path(output)


def _plan_stylized(configs: dict[type, Any], source: Source, output: Path) -> _Plan:
    config = configs[StylizedConfig]
    names = find_styles(config.style_dir) if config.style_dir is not None else []
    styles = [Path(config.style_dir) / name for name in names]
    pairs = stylized_pairs(source, styles, configs[CommonConfig].seed)
    plan = _plan_pairs(configs, source, pairs, config.alpha, output, styles)
    style_source = {'images': len(names), 'sha256': fingerprint(Path(config.style_dir), names)} if names else None
    return _Plan(plan.manifest | {'styles': style_source}, plan.files, plan.write)


def _plan_cue_conflict(configs: dict[type, Any], source: Source, output: Path) -> _Plan:
    per_pair = configs[CueConflictConfig].per_pair
    pairs = conflict_pairs(source, per_pair, configs[CommonConfig].seed)
    plan = _plan_pairs(configs, source, pairs, 1.0, output, [])
    plan.manifest['parameters']['per_pair'] = per_pair
    return plan


def _plan_pairs(
    configs: dict[type, Any], source: Source, pairs: list[Pair], alpha: float, output: Path, styles: list[Path]
) -> _Plan:
    common, config = configs[CommonConfig], configs[StylizerConfig]
    stylizer = create_stylizer(config.stylizer, config.stylizer_weights).to(config.device)
    check_readable([*(source.root / name for name in source.names), *styles], MIN_SIZE)
    parameters = _parameters(common) | {
        'alpha': alpha,
        'batch_size': config.batch_size,
        'device': torch.device(config.device).type,
    }
    manifest = {
        'parameters': parameters,
        'stylizer': {'name': config.stylizer, 'weights_sha256': hash_weights(stylizer)},
        'source': _source(source),
        'versions': _versions() | {'torch': torch.__version__},
    }
    return _Plan(manifest, len(pairs), lambda: write_pairs(pairs, stylizer, alpha, common, config, output))


def _plan_corrupted(configs: dict[type, Any], source: Source, output: Path) -> _Plan:
    common, corruptions = configs[CommonConfig], configs[CorruptedConfig].corruptions
    check_readable([source.root / name for name in source.names], 1)
    parameters = _parameters(common) | {
        'corruptions': corruptions,
        'severities': list(SEVERITIES),
        'jpeg_quality': QUALITY,
        'frost': 'drawn by code, not photographs',
    }
    manifest = {'parameters': parameters, 'source': _source(source), 'versions': _versions()}
    files = len(source.names) * len(corruptions) * len(SEVERITIES)
    return _Plan(manifest, files, lambda: write_corrupted(source, corruptions, common, output))


def _parameters(common: CommonConfig) -> dict[str, Any]:
    return {
        'seed': common.seed,
        'resize': common.resize,
        'img_size': common.img_size,
        'interpolation': 'bilinear',
    }


def _source(source: Source) -> dict[str, Any]:
    return {
        'images': len(source.names),
        'classes': list(source.classes),
        'sha256': fingerprint(source.root, source.names),
    }


def _versions() -> dict[str, str]:
    return {'timm_debias': __version__, 'numpy': numpy.__version__, 'pillow': PIL.__version__}
