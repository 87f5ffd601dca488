"""The flags of `timm-debias benchmark`."""

from dataclasses import dataclass, replace

import torch

from ..bounds import at_least, check_bounds
from ..checks import check_device, check_model_name
from ..errors import DebiasError
from ..flags import flag
from .results import BAND
from .steps import Setup

IMAGENET_IMAGES = 1_281_167
"""Training images of ImageNet."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure"""

    suite: bool = flag(False, 'measure every part that has a target, and the step of the reference')
    archs: list[str] | None = flag(
        None,
        'measure the steps of these timm models, NAME or NAME@IMG_SIZE, and fit the cost model to them',
        nargs='+',
        metavar='NAME',
    )
    project_recipe: str | None = flag(
        None,
        'say what training by a recipe will take: a YAML file of train.py, or its name in ./hparams',
        metavar='NAME',
    )
    stylizers: list[str] = flag(['adain_lite'], 'stylizers of the debiased step', nargs='+', metavar='NAME')
    stylizer_weights: list[str] | None = flag(
        None, 'weights for stylizers that need or may have others', nargs='+', metavar='NAME=PATH'
    )
    repeats: int = flag(7, 'turns of timing', metavar='N')
    check: str | None = flag(
        None,
        f'compare with the ratios in a benchmark.json; exit code 1 where one is worse by a factor of {BAND:g}',
        metavar='FILE',
    )
    output: str = flag('output/benchmark', 'folder for benchmark.json and benchmark.md', metavar='DIR')


@dataclass(frozen=True)
class SetupConfig:
    """What to measure with"""

    model: str = flag('resnet50', 'timm model', metavar='MODEL')
    img_size: int = flag(224, 'image size in pixels', metavar='N')
    batch_size: int = flag(8, 'number n of clean images; a debiased step takes 2n', '-b', '--batch-size', metavar='N')
    device: str | None = flag(None, 'cpu or cuda; cuda where there is one if not given')
    amp: bool = flag(False, 'mixed precision')
    amp_dtype: str = flag('float16', 'lower precision of --amp', choices=['float16', 'bfloat16'])
    model_dtype: str = flag('float32', 'dtype of the model', choices=['float32', 'float16', 'bfloat16'])
    channels_last: bool = flag(False, 'use channels_last memory layout')
    torchcompile: str | None = flag(None, 'compile with this backend', nargs='?', type=str, const='inductor')


@dataclass(frozen=True)
class ProjectConfig:
    """With --project-recipe"""

    images_per_second: float | None = flag(
        None, 'training images a second of one device in plain training; measured here if not given', type=float
    )
    world_size: int = flag(8, 'number of devices', metavar='N')
    num_images: int = flag(IMAGENET_IMAGES, 'training images, those of ImageNet if not given', metavar='N')
    bandwidth: float | None = flag(
        None,
        'GB a second that a device sends to others, and receives; hours on many devices then count waiting for others',
        type=float,
    )


def setup_from(config: SetupConfig) -> Setup:
    """Return what to measure with.

    Raises:
        DebiasError: an unknown model, a device that is not there, numbers out of range, flags that contradict.
    """
    device = config.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    check_model_name(config.model)
    check_device(device)
    if torch.device(device).type not in ('cpu', 'cuda'):
        raise DebiasError(f'--device {device}: the benchmark measures on cpu and cuda')
    check_bounds([config], {at_least(32): ('img_size',), at_least(2): ('batch_size',)})
    if config.amp and config.model_dtype != 'float32':
        raise DebiasError(f'--amp needs a float32 model; leave out --amp or --model-dtype {config.model_dtype}')
    return Setup(
        config.model,
        config.img_size,
        config.batch_size,
        torch.device(device),
        getattr(torch, config.amp_dtype) if config.amp else None,
        getattr(torch, config.model_dtype),
        config.channels_last,
        config.torchcompile,
    )


def check_config(config: BenchmarkConfig, setup: SetupConfig, project: ProjectConfig) -> None:
    """Raise `DebiasError` for the first flag that is wrong or contradicts another."""
    modes = [
        name
        for name, given in (
            ('--suite', config.suite),
            ('--archs', bool(config.archs)),
            ('--project-recipe', config.project_recipe is not None),
        )
        if given
    ]
    if len(modes) > 1:
        raise DebiasError(f'{" and ".join(modes)} are different measurements: give one of them')
    if config.check is not None and modes not in ([], ['--suite']):
        raise DebiasError(f'--check compares the rows of one model; it does not go with {modes[0]}')
    if modes == ['--archs'] and setup.model != SetupConfig.model:
        raise DebiasError('--archs names the models: leave --model out')
    if modes == ['--archs'] and len(config.stylizers) > 1:
        raise DebiasError('--archs measures with one stylizer: give one with --stylizers')
    if modes != ['--project-recipe'] and project != ProjectConfig():
        raise DebiasError('--images-per-second, --world-size, --num-images and --bandwidth belong to --project-recipe')
    for flag_name, value in (
        ('--repeats', config.repeats),
        ('--world-size', project.world_size),
        ('--num-images', project.num_images),
    ):
        if value < 1:
            raise DebiasError(f'{flag_name} is {value}; expected at least 1')
    for flag_name, speed in (('--images-per-second', project.images_per_second), ('--bandwidth', project.bandwidth)):
        if speed is not None and not speed > 0:
            raise DebiasError(f'{flag_name} is {speed:g}; expected a number above 0')
    if modes == ['--project-recipe']:
        _check_projection(config, setup, project)


def _check_projection(config: BenchmarkConfig, setup: SetupConfig, project: ProjectConfig) -> None:
    """Raise `DebiasError` for a flag without effect on a projection."""
    plain, measured = BenchmarkConfig(), replace(setup, model=SetupConfig.model, img_size=SetupConfig.img_size)
    for name in ('stylizers', 'stylizer_weights'):
        if getattr(config, name) != getattr(plain, name):
            flag_name = name.replace('_', '-')
            raise DebiasError(f'--project-recipe takes the stylizer of the recipe: leave --{flag_name} out')
    if config.output != plain.output:
        raise DebiasError('--project-recipe prints what it finds: leave --output out')
    if project.images_per_second is not None and (measured, config.repeats) != (SetupConfig(), plain.repeats):
        raise DebiasError(
            '--images-per-second says how fast a device is, so that nothing is measured: leave out --device, '
            '-b/--batch-size and whatever else says how to measure'
        )
