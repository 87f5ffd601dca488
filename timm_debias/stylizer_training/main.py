"""The command `timm-debias train-stylizer`."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from ..bounds import COUNT, POSITIVE, at_least, check_bounds
from ..checks import check_device, check_seed
from ..errors import DebiasError
from ..files import check_output, write_text
from ..flags import Parser, add_flags, config_from
from ..log import setup_logging
from ..stylizers import Stylizer
from ..stylizers.adain_lite import AdainLite
from ..stylizers.adain_vgg19 import ENCODER_FILE, AdainVgg19, load_encoder
from .config import StylizerTrainConfig
from .data import Crops, find_images
from .loop import StylizerTrainer
from .objectives import LiteObjective, Objective, VGGObjective
from .texture import MIN_SIDE

_logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Train a stylizer as the flags say; returns the exit code.

    Raises:
        DebiasError: a mistake in the flags or the data, before any training, or a loss that is not finite.
    """
    setup_logging()
    parser = Parser(
        prog='timm-debias train-stylizer',
        description='Train a style transfer network on folders of images; a run leaves <stylizer>.safetensors, '
        'metrics.json, preview.png, args.yaml and a checkpoint in --output.',
    )
    add_flags(parser, StylizerTrainConfig)
    config = config_from(StylizerTrainConfig, parser.parse_args(argv))
    _check(config)
    training, held_out = find_images(config.data_dir or [], config.max_images, config.seed)
    torch.manual_seed(config.seed)
    stylizer, objective = _create(config)
    crops, measured = Crops(training, config.img_size), Crops(held_out, config.img_size)
    _logger.info(f'{config.stylizer}: training on {len(crops):,} images, measuring on {len(measured):,}.')
    images = measured.sample(len(measured), torch.Generator().manual_seed(config.seed)).to(config.device)
    trainer = StylizerTrainer(config, stylizer, objective, crops, images)
    if config.resume:
        trainer.load()
    write_text(Path(config.output) / 'args.yaml', yaml.safe_dump(vars(config)))
    metrics = trainer.train()
    _logger.info(
        f'Held-out images: PSNR {metrics["psnr"]:.2f} dB at alpha 0, {100 * metrics["texture_removed"]:.1f} % of the '
        f'distance to the texture of the partner removed at alpha 1.'
    )
    _logger.info(f'Weights: {Path(config.output) / config.stylizer}.safetensors')
    return 0


def _check(config: StylizerTrainConfig) -> None:
    check_device(config.device)
    check_seed(config.seed)
    check_output(config.output)
    if not config.data_dir:
        raise DebiasError('no images: give --data-dir DIR')
    if config.stylizer == 'adain_vgg19' and config.encoder_weights is None:
        raise DebiasError(f'--stylizer adain_vgg19 trains a decoder for {ENCODER_FILE}: name its --encoder-weights DIR')
    if config.stylizer != 'adain_vgg19' and config.encoder_weights is not None:
        raise DebiasError('--encoder-weights goes with --stylizer adain_vgg19')
    bounds = {
        COUNT: ('steps', 'log_interval', 'checkpoint_interval'),
        at_least(4): ('batch_size',),  # Two figures and two crops, so that each has a partner.
        at_least(MIN_SIDE): ('img_size',),
        POSITIVE: ('lr',),
    }
    check_bounds([config], bounds)
    if not config.resume and (Path(config.output) / 'checkpoint.pth').exists():
        raise DebiasError(f'{config.output} holds a run already: choose another --output, or go on with --resume')


def _create(config: StylizerTrainConfig) -> tuple[Stylizer, Objective]:
    device = torch.device(config.device)
    if config.stylizer == 'adain_lite':
        lite = AdainLite().to(device)
        return lite, LiteObjective(lite, config.seed, device)
    vgg = AdainVgg19()
    load_encoder(vgg, Path(config.encoder_weights or '') / ENCODER_FILE)
    vgg.to(device)
    return vgg, VGGObjective(vgg)
