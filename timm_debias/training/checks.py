"""Refuses, before any work is done, what cannot be meant."""

import os
from collections.abc import Sequence
from pathlib import Path

from timm.optim import list_optimizers

from ..bounds import SHARE, check_bounds
from ..checks import check_device, check_model_name, check_one_folder, check_preprocessing
from ..data.factory import SHAPES_TEXTURES
from ..downloads import check_url
from ..errors import DebiasError, did_you_mean
from ..files import below
from ..stylizers import list_stylizers
from .combinations import check_combinations, refuse_with_debias
from .config import DebiasConfig, TrainConfig
from .criterion import build_criterion
from .debias_checks import check_debias_options, check_warmup_multistep, check_without_debias
from .fsdp import check_fsdp
from .number_checks import check_numbers
from .trackers import check_trackers
from .warmup_multistep import WARMUP_MULTISTEP
from .without_effect import warn_without_effect

_SCHEDULES = ('cosine', 'tanh', 'step', 'multistep', 'poly', 'plateau', 'wsd', 'rsqrt', 'constant', 'none',
              WARMUP_MULTISTEP)  # fmt: skip


def check_config(config: TrainConfig) -> None:
    """Raise `DebiasError` for the first flag that is wrong or contradicts another."""
    check_model_name(config.model.model)
    if config.distill.kd_model_name is not None:
        check_model_name(config.distill.kd_model_name)
    check_device(config.device.device)
    check_numbers(config)
    check_debias(config)
    check_combinations(config)
    check_trackers(config)
    check_fsdp(config)
    _check_names(config)
    _check_splits(config)
    _check_files(config)
    _check_precision(config)
    _check_images(config)
    if config.model.freeze_backbone:
        _check_frozen(config)
    _check_faults(config)
    build_criterion(config)
    warn_without_effect(config)


def check_debias(config: TrainConfig) -> None:
    """Raise `DebiasError` for the first flag of `--debias` that is wrong, or does not go with it."""
    if not config.debias.debias:
        check_without_debias(config)
        return
    refuse_with_debias(config)
    _check_debias(config)


def _check_names(config: TrainConfig) -> None:
    optimizer, schedule = config.optimizer.opt, config.schedule.sched
    optimizers = [str(name) for name in list_optimizers()]
    if optimizer.lower().removeprefix('lookahead_') not in optimizers:
        raise DebiasError(f"unknown optimizer '{optimizer}'. {did_you_mean(optimizer, optimizers)}")
    if schedule not in _SCHEDULES:
        raise DebiasError(f"unknown schedule '{schedule}'. {did_you_mean(schedule, _SCHEDULES)}")
    check_warmup_multistep(config)


def _check_splits(config: TrainConfig) -> None:
    data = config.data
    check_one_folder(data.data, data.data_dir)
    for name, split in (('--train-split', data.train_split), ('--val-split', data.val_split)):
        if data.dataset == SHAPES_TEXTURES and split == 'conflict':
            raise DebiasError(
                f'{name} conflict: its images have two labels, of shape and texture; validation on another split of '
                f'{SHAPES_TEXTURES} measures them too'
            )


def _check_files(config: TrainConfig) -> None:
    files = {
        '--resume': config.model.resume if config.model.resume != 'auto' else '',
        '--initial-checkpoint': config.model.initial_checkpoint,
        '--pretrained-path': config.model.pretrained_path,
        '--class-map': config.data.class_map,
        '--class-stats': config.task.class_stats,
    }
    for name, path in files.items():
        if path and not os.path.isfile(path):
            raise DebiasError(f"{name} '{path}': no such file")
    if config.model.pretrained_path and not config.model.pretrained:
        raise DebiasError('--pretrained-path is read only with --pretrained')
    if config.run.experiment:
        below(Path(config.run.output or 'output/train'), config.run.experiment, '--experiment')
    url = config.model.pretrained_cfg_overlay.get('url')
    if url:
        check_url(str(url))


def _check_precision(config: TrainConfig) -> None:
    if config.device.amp and config.device.model_dtype not in (None, 'float32'):
        raise DebiasError(f'--amp needs a float32 model; leave out --amp or --model-dtype {config.device.model_dtype}')


def _check_images(config: TrainConfig) -> None:
    """Raise `DebiasError` for values that no image can be prepared or augmented with."""
    model, augment = config.model, config.augment
    channels = model.in_chans or (model.input_size or [3])[0]
    check_preprocessing(model.crop_pct, model.mean, model.std, channels)
    if config.run.save_images and channels not in (1, 3):
        raise DebiasError(f'--save-images saves grey and RGB pictures, and the model takes {channels} channels')
    for name, bounds in (('--scale', augment.scale), ('--ratio', augment.ratio)):
        if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
            raise DebiasError(f'{name} is {_words(bounds)}; expected two numbers above 0, the smaller first')
    sides = augment.cutmix_minmax
    if sides is not None and (len(sides) != 2 or not 0 <= sides[0] < sides[1] <= 1):
        raise DebiasError(
            f"--cutmix-minmax is {_words(sides)}; expected two shares of the image's side in [0, 1], the smaller first"
        )


def _words(numbers: Sequence[float]) -> str:
    return ' '.join(f'{number:g}' for number in numbers)


def _check_faults(config: TrainConfig) -> None:
    if config.faults.on_bad_image != 'skip':
        return
    advice = '--on-bad-image replace keeps batches as they are'
    if config.augment.mixup_active:
        raise DebiasError(f'--on-bad-image skip leaves odd batches, and --mixup and --cutmix mix pairs: {advice}')
    if config.norm.split_bn:
        raise DebiasError(f'--on-bad-image skip leaves odd batches, and --split-bn splits them evenly: {advice}')
    if config.debias.debias_global_partners:
        raise DebiasError(f'--on-bad-image skip leaves processes with batches of different sizes, and '
                          f'--debias-global-partners needs equal ones: {advice}')  # fmt: skip


def _check_frozen(config: TrainConfig) -> None:
    model, augment = config.model, config.augment
    if not (model.pretrained or model.initial_checkpoint or model.resume):
        raise DebiasError(
            '--freeze-backbone would leave random features as they are; give --pretrained or --initial-checkpoint'
        )
    if config.debias.debias and not config.debias.no_debias_aux_bn:
        raise DebiasError(
            '--freeze-backbone freezes batch norm, so that stylised images need none of their own; give '
            '--no-debias-aux-bn too'
        )
    refused = {'--drop': augment.drop, '--drop-connect': augment.drop_connect, '--drop-path': augment.drop_path,
               '--drop-block': augment.drop_block}  # fmt: skip
    for name, rate in refused.items():
        if rate:
            raise DebiasError(f'{name} acts on the features, which --freeze-backbone keeps as they are; leave it out')


def _check_debias(config: TrainConfig) -> None:
    debias = config.debias
    check_bounds([debias], {SHARE: ('debias_gamma', 'debias_alpha')})
    if debias.debias_mode != 'debiased' and debias.debias_gamma != DebiasConfig().debias_gamma:
        raise DebiasError(f'--debias-mode {debias.debias_mode} sets gamma itself: leave --debias-gamma out')
    if debias.debias_stylizer not in list_stylizers():
        hint = did_you_mean(debias.debias_stylizer, list_stylizers())
        raise DebiasError(f"unknown stylizer '{debias.debias_stylizer}'. {hint}")
    if debias.debias_stylizer_weights and not Path(debias.debias_stylizer_weights).exists():
        raise DebiasError(f"--debias-stylizer-weights '{debias.debias_stylizer_weights}': no such file or folder")
    in_chans = config.model.in_chans or (config.model.input_size or [3])[0]
    if in_chans != 3:
        raise DebiasError(f'--debias stylises RGB images and the model takes {in_chans} channels (--in-chans)')
    check_debias_options(config)
