"""The command `timm-debias convert`: a checkpoint becomes a folder that plain timm loads."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_data_config
from torch import nn

from .. import __version__
from ..checks import INTERPOLATIONS, check_by_channel
from ..data.factory import SHAPES_TEXTURES
from ..errors import DebiasError
from ..escaping import markdown_text
from ..flags import ParseKwargs, Parser, add_flags, config_from, flag
from ..hashing import hash_file
from ..log import setup_logging
from .card import Section, model_card, preprocessing
from .checkpoints import Checkpoint, read_checkpoint
from .folder import AUX_WEIGHTS, Release, check_new, write_folder
from .manifest import DATA, PAGE, Entry, entries
from .network import count_classes, create_network, fit
from .verify import largest_difference, network_after, network_before, read_images, sample_images

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertConfig:
    """Convert a checkpoint"""

    checkpoint: str = flag('', 'file of torch.save or safetensors: the official ones, torchvision-style, timm-style',
                           'checkpoint', metavar='CHECKPOINT')  # fmt: skip
    arch: str = flag('', "timm's name of the architecture", metavar='MODEL')
    output: str = flag('', 'folder to make', '--out', '--output', metavar='DIR')
    name: str = flag('', 'name for the card; one of a released model adds what is known of it', metavar='NAME')
    num_classes: int | None = flag(None, 'number of classes, by the classifier if not given', type=int, metavar='N')
    model_kwargs: dict = flag({}, 'keyword arguments for the model, key=value', nargs='*', action=ParseKwargs)
    use_ema: bool = flag(False, 'take the moving average of the weights')
    keep_aux: bool = flag(
        False, f'keep auxiliary batch norm in the weights, which plain timm then refuses; else it goes to {AUX_WEIGHTS}'
    )
    verify: str = flag('', 'folder of images on which the logits must be the same before and after', metavar='DIR')
    img_size: int | None = flag(None, 'image size of evaluation in pixels', type=int, metavar='N')
    crop_pct: float | None = flag(None, 'share of the image in the centre crop of evaluation', type=float)
    interpolation: str | None = flag(None, 'interpolation of image resizing', choices=INTERPOLATIONS)
    mean: list[float] | None = flag(None, 'mean pixel value of the data set, by channel', nargs='+', type=float)
    std: list[float] | None = flag(None, 'standard deviation of the data set, by channel', nargs='+', type=float)
    license: str = flag('', 'licence of the weights, "unknown" if not given', metavar='NAME')
    overwrite: bool = flag(False, 'replace a model that is in the folder')


def main(argv: Sequence[str] | None = None) -> int:
    """Convert a checkpoint as the flags say; returns the exit code.

    Raises:
        DebiasError: a mistake in the flags or the file; nothing is written then.
    """
    setup_logging()
    parser = Parser(
        prog='timm-debias convert',
        description='Turn a checkpoint into model.safetensors, config.json, a model card and hashes, in a folder that '
        'timm.create_model loads as local-dir:DIR. Nothing in the checkpoint is executed.',
    )
    add_flags(parser, ConvertConfig)
    config = config_from(ConvertConfig, parser.parse_args(argv))
    for name, value in (('--arch', config.arch), ('--out', config.output)):
        if not value:
            raise DebiasError(f'no {name}: see timm-debias convert --help')
    convert(config)
    return 0


def convert(config: ConvertConfig) -> None:
    """Convert a checkpoint.

    Raises:
        DebiasError: a mistake in the flags or the file; nothing is written then.
    """
    _check_preprocessing(config)
    folder = Path(config.output)
    check_new(folder, config.overwrite)
    entry = entries().get(config.name)
    images = sample_images(config.verify) if config.verify else []
    checkpoint = read_checkpoint(Path(config.checkpoint), config.use_ema)
    if checkpoint.has_ema and not checkpoint.is_ema:
        _logger.info('The checkpoint holds a moving average of the weights too; --use-ema takes it.')
    if config.keep_aux and not checkpoint.aux:
        raise DebiasError(f'--keep-aux: {checkpoint.path} holds no auxiliary batch norm')
    num_classes = config.num_classes or count_classes(config.arch, checkpoint.state)
    if entry is not None:
        _check_entry(config, entry, num_classes)
    network = create_network(config.arch, num_classes, config.model_kwargs)
    state = fit(checkpoint, network, config.arch)
    release = Release(
        network,
        {**state, **checkpoint.aux} if config.keep_aux else state,
        data_config=_data_config(config, checkpoint, network, entry),
        about=entry.about if entry else {'license': config.license or 'unknown'},
        aux={} if config.keep_aux else checkpoint.aux,
    )
    compared: list[str] = []

    def check(temporary: Path) -> None:
        if images:
            compared.append(_compare(config, checkpoint, release, images, temporary))

    def card(sums: Mapping[str, str]) -> str:
        sections = [Section('Origin', ' '.join([_origin(checkpoint, entry), *compared]))]
        return model_card(config.name or folder.name, _summary(entry), release, sections, sums)

    write_folder(folder, release, card, check=check, overwrite=config.overwrite)
    _logger.info(preprocessing(release.data_config))
    aux = f'; auxiliary batch norm: {AUX_WEIGHTS}' if release.aux else ''
    print(f"timm.create_model('local-dir:{folder}', pretrained=True){aux}")


def _check_preprocessing(config: ConvertConfig) -> None:
    channels = _channels(config)
    if config.img_size is not None and config.img_size < 1:
        raise DebiasError(f'--img-size is {config.img_size}; expected at least 1')
    if config.crop_pct is not None and not 0 < config.crop_pct <= 1:
        raise DebiasError(f'--crop-pct is {config.crop_pct:g}; expected a share of the image above 0, 1 at most')
    for name, values in (('--mean', config.mean), ('--std', config.std)):
        check_by_channel(name, values, channels)
    if config.std and min(config.std) <= 0:
        raise DebiasError(f'--std is {min(config.std):g}; expected more than 0')


def _channels(config: ConvertConfig) -> int:
    return int(config.model_kwargs.get('in_chans', 3))


def _check_entry(config: ConvertConfig, entry: Entry, num_classes: int | None) -> None:
    """Raise `DebiasError` where what is known of a released model is not what the flags say."""
    if (config.arch, num_classes) != (entry.architecture, entry.num_classes):
        raise DebiasError(
            f'--name {entry.name} is a {entry.architecture} of {entry.num_classes} classes; '
            f'this is a {config.arch} of {num_classes}'
        )
    if config.license:
        raise DebiasError(f'--license: the weights of {entry.name} are under {entry.license}; leave it out')


def _data_config(
    config: ConvertConfig, checkpoint: Checkpoint, network: nn.Module, entry: Entry | None
) -> dict[str, Any]:
    """Return the preprocessing: by flags, else by the manifest, else by the training run, else as torchvision's."""
    flags = dict(
        img_size=config.img_size,
        crop_pct=config.crop_pct,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
    )
    if entry is not None:
        defaults = dict(entry.data_config)
    elif checkpoint.args:
        keys = ('img_size', 'input_size', 'in_chans', 'crop_pct', 'interpolation', 'mean', 'std')
        defaults = {key: checkpoint.args.get(key) for key in keys}
        if checkpoint.args.get('dataset') == SHAPES_TEXTURES and defaults['crop_pct'] is None:
            defaults['crop_pct'] = DATA[SHAPES_TEXTURES]['crop_pct']
    else:
        reference = DATA['in1k']
        defaults = dict(
            crop_pct=reference['crop_pct'],
            interpolation=reference['interpolation'],
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
        )
    given = {key: value for key, value in flags.items() if value}
    if config.img_size:
        defaults.pop('input_size', None)
    channels = _channels(config)
    for name in ('mean', 'std'):
        values = {**defaults, **given}.get(name)
        if channels != 3 and (values is None or len(values) not in (1, channels)):
            raise DebiasError(f'no --{name}: give it for images of {channels} channels')
    resolved = resolve_data_config({**defaults, **given, 'in_chans': channels}, model=network)
    return {**resolved, 'input_size': (channels, *resolved['input_size'][1:])}


def _compare(config: ConvertConfig, checkpoint: Checkpoint, release: Release, paths: list[Path], folder: Path) -> str:
    """Return in words that the logits are the same before and after.

    Raises:
        DebiasError: they are not.
    """
    images = read_images(paths, release.data_config)
    after = network_after(folder, aux=config.keep_aux)
    network = create_network(config.arch, release.network.num_classes, config.model_kwargs)
    before = network_before(config.arch, network, checkpoint)
    difference = largest_difference(before, after, images)
    if difference > 0:
        raise DebiasError(f'logits differ by up to {difference:g} after the conversion; nothing was written')
    words = f'Logits of {len(images)} images are the same before and after the conversion, bit for bit.'
    _logger.info(words)
    return words


def _summary(entry: Entry | None) -> str:
    if entry is None or not entry.offered_as:
        return 'Weights for timm, converted from a checkpoint.'
    return (
        f'"{entry.offered_as}" of Li et al., *Shape-Texture Debiased Neural Network Training* (ICLR 2021, '
        '[arXiv:2010.05981](https://arxiv.org/abs/2010.05981)), converted for timm.'
    )


def _origin(checkpoint: Checkpoint, entry: Entry | None) -> str:
    words = [
        f'Converted by timm-debias {__version__} from `{markdown_text(checkpoint.path.name)}` '
        f'(SHA-256 `{hash_file(checkpoint.path)}`){", moving average" if checkpoint.is_ema else ""}.'
    ]
    if entry is not None and entry.offered_as:
        words.append(f'The authors offer it under [Model Zoo]({PAGE}) ([link]({entry.link})); their code is under MIT.')
    if entry is not None and entry.top1:
        words.append(f'Their README gives {entry.top1} % top-1 on ImageNet, not measured here.')
    return ' '.join(words)
