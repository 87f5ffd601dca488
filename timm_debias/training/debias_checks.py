"""Refuses what cannot be meant about debiased training and its schedule."""

import logging
from pathlib import Path

from ..errors import DebiasError
from ..registration import uses_stylize
from ..stylizers.base import MIN_SIZE
from .config import DebiasConfig, TrainConfig
from .warmup_multistep import WARMUP_MULTISTEP

_logger = logging.getLogger(__name__)


def check_debias_options(config: TrainConfig) -> None:
    """Raise `DebiasError` for the first option of `--debias` that does not go with another flag."""
    if config.model.batch_size < 2 and config.debias.debias_style_dir is None:
        raise DebiasError('--batch-size 1 leaves no image to take a texture from; --debias needs at least 2')
    _check_style_dir(config.debias)
    _check_multi_grid(config)
    _check_augmentation(config)


def check_without_debias(config: TrainConfig) -> None:
    """Raise `DebiasError` for an option of `--debias` without it; with `--no-debias` say which are set aside."""
    default = DebiasConfig()
    stylizer_flags = ('debias_stylizer', 'debias_stylizer_weights') if uses_stylize(config.augment.aa) else ()
    given = [
        f'--{name.replace("_", "-")}'
        for name, value in vars(config.debias).items()
        if name != 'debias' and value != getattr(default, name) and name not in stylizer_flags
    ]
    if given and config.debias.debias is None:
        raise DebiasError(f'{given[0]} has no effect without --debias: add --debias or leave it out')
    if given:
        _logger.info(f'--no-debias: {", ".join(given)} set aside.')


def check_warmup_multistep(config: TrainConfig) -> None:
    """Raise `DebiasError` for flags of timm's schedules that `--sched warmup_multistep` has no use for."""
    schedule = config.schedule
    if schedule.sched != WARMUP_MULTISTEP:
        return
    if not schedule.sched_on_updates:
        raise DebiasError(f'--sched {WARMUP_MULTISTEP} changes the rate with every update: add --sched-on-updates')
    if schedule.lr_noise is not None:
        raise DebiasError(f'--lr-noise does not go with --sched {WARMUP_MULTISTEP}; use multistep')
    if schedule.warmup_prefix:
        raise DebiasError(f'--sched {WARMUP_MULTISTEP} counts milestones from the start: leave --warmup-prefix out')


def _check_style_dir(debias: DebiasConfig) -> None:
    if debias.debias_style_dir is None:
        return
    if not Path(debias.debias_style_dir).is_dir():
        raise DebiasError(f"--debias-style-dir '{debias.debias_style_dir}': no such folder")
    if debias.debias_global_partners:
        raise DebiasError('--debias-global-partners: with --debias-style-dir images have no partners; leave one out')
    if debias.debias_mode == 'texture':
        raise DebiasError('--debias-mode texture trains on the label of the texture, and the styles of '
                          '--debias-style-dir have none')  # fmt: skip
    if debias.debias_gamma not in (DebiasConfig().debias_gamma, 1.0):
        raise DebiasError(
            f'--debias-gamma {debias.debias_gamma} weighs the label of the texture, and the styles of '
            '--debias-style-dir have none: leave it out'
        )


def _check_multi_grid(config: TrainConfig) -> None:
    debias = config.debias
    if not debias.debias_multi_grid:
        if debias.debias_min_size is not None:
            raise DebiasError('--debias-min-size has no effect without --debias-multi-grid')
        return
    if debias.debias_min_size is not None and debias.debias_min_size < MIN_SIZE:
        raise DebiasError(f'--debias-min-size is {debias.debias_min_size}; stylizers need at least {MIN_SIZE}')
    if config.model.torchscript:
        raise DebiasError('--debias-multi-grid passes two batches through the model, which --torchscript does not let; '
                          'try --torchcompile')  # fmt: skip
    if config.schedule.sched == 'plateau':
        raise DebiasError('--debias-multi-grid has to know the stages of the learning rate, which --sched plateau '
                          'decides in training')  # fmt: skip


def _check_augmentation(config: TrainConfig) -> None:
    augment = config.augment
    if augment.bce_target_thresh is not None:
        raise DebiasError('--bce-target-thresh does not go with --debias: a thresholded target cannot weigh two labels')
    batches = {'--batch-size': [config.model.batch_size], '--train-batch-sizes': config.sizes.train_batch_sizes or []}
    for name, sizes in batches.items():
        odd = [size for size in sizes if size % 2]
        if odd and augment.mixup_active:
            raise DebiasError(f'--mixup and --cutmix mix pairs: {name} {odd[0]} has to be even')
