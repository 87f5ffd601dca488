"""Warns of flags that timm accepts and that do nothing, without one that is not given or beside one that is."""

import logging
from typing import Any

from .config import ScheduleConfig, TrainConfig
from .warmup_multistep import WARMUP_MULTISTEP

_logger = logging.getLogger(__name__)

_WITHOUT_AUGMENTATION = (
    'train_crop_mode', 'scale', 'ratio', 'hflip', 'vflip', 'color_jitter', 'color_jitter_prob', 'grayscale_prob',
    'gaussian_blur_prob', 'aa', 'reprob', 'train_interpolation',
)  # fmt: skip

_CYCLIC = ('cosine', 'tanh', 'poly')

_OF_SCHEDULES: dict[tuple[str, ...], tuple[str, ...]] = {
    ('plateau',): ('patience_epochs',),
    ('multistep', WARMUP_MULTISTEP): ('decay_milestones',),
    ('step', 'wsd', 'rsqrt'): ('decay_epochs',),
    ('step', 'multistep', WARMUP_MULTISTEP, 'plateau', 'poly'): ('decay_rate',),
    _CYCLIC: ('lr_cycle_limit',),
    (*_CYCLIC, 'wsd', 'rsqrt'): ('cooldown_epochs',),
    ('cosine', 'poly'): ('lr_k_decay',),
    ('cosine', 'tanh', 'plateau', 'poly', 'wsd', 'rsqrt'): ('min_lr',),
    ('wsd', 'rsqrt'): ('lr_decay_fn',),
    ('rsqrt',): ('lr_stable_timescale',),
}
"""Schedules of `--sched` -> the flags that they alone heed."""

_Group = tuple[str, bool, Any, tuple[str, ...]]
"""Words for what is missing or in the way, whether the flags act, where they are, and their names, () for all."""


def warn_without_effect(config: TrainConfig) -> None:
    """Log a warning for each flag that differs from its default and does nothing."""
    for words, act, options, names in [
        *_of_model(config),
        *_of_schedule(config.schedule),
        *_of_augmentation(config),
        *_of_task(config),
    ]:
        default = type(options)()
        for name in names or vars(options):
            value = getattr(options, name)
            if not act and value is not None and value != getattr(default, name):
                _logger.warning(f'--{name.replace("_", "-")} has no effect {words}.')


def _of_model(config: TrainConfig) -> list[_Group]:
    model, optimizer, run = config.model, config.optimizer, config.run
    layers = ('layer_decay_min_scale', 'layer_decay_no_opt_scale')
    return [
        ('without --amp', config.device.amp, config.device, ('amp_dtype',)),
        ('without --resume', bool(model.resume), model, ('no_resume_opt',)),
        ('without --torchscript', model.torchscript, model, ('fuser',)),
        ('without --torchcompile', model.torchcompile is not None, model, ('torchcompile_mode',)),
        ('without --clip-grad', optimizer.clip_grad is not None, optimizer, ('clip_mode',)),
        ('without --layer-decay', optimizer.layer_decay is not None, optimizer, layers),
        ('without --model-ema', config.ema.model_ema, config.ema, ()),
        ('without --log-wandb', run.log_wandb, run, ('wandb_project', 'wandb_tags', 'wandb_resume_id')),
        ('without --train-img-sizes', config.sizes.train_img_sizes is not None, config.sizes, ()),
        (
            'without --train-size-schedule progressive',
            config.sizes.train_size_schedule == 'progressive',
            config.sizes,
            ('train_size_schedule_spread', 'train_size_random_mix'),
        ),
        ('without --naflex-loader', config.naflex.naflex_loader, config.naflex, ()),
    ]


def _of_schedule(schedule: ScheduleConfig) -> list[_Group]:
    cycles = schedule.sched in _CYCLIC and schedule.lr_cycle_limit > 1
    scheduled = schedule.sched != 'none'
    return [
        *(
            (f'without --sched {" or ".join(heeding)}', schedule.sched in heeding, schedule, names)
            for heeding, names in _OF_SCHEDULES.items()
        ),
        ('without --lr-cycle-limit', cycles, schedule, ('lr_cycle_mul', 'lr_cycle_decay')),
        ('without --lr-noise', scheduled and schedule.lr_noise is not None, schedule, ('lr_noise_pct', 'lr_noise_std')),
        ('without --warmup-epochs', scheduled and schedule.warmup_epochs > 0, schedule, ('warmup_lr',)),
        ('without --warmup-epochs', schedule.warmup_epochs > 0, schedule, ('warmup_prefix',)),
        ('beside --sched none', scheduled, schedule, ('sched_on_updates', 'lr_noise')),
        # The prefix adds the epochs of warm-up to those of training also where nothing warms up.
        ('beside --sched none', scheduled or schedule.warmup_prefix, schedule, ('warmup_epochs',)),
        ('beside --lr', not schedule.lr, schedule, ('lr_base', 'lr_base_size', 'lr_base_scale')),
    ]


def _of_augmentation(config: TrainConfig) -> list[_Group]:
    augment = config.augment
    jitter = not augment.aa or '3a' in augment.aa  # timm's three-augment has colour jitter, others take its place.
    sides = augment.cutmix_minmax is not None
    mixes = (augment.mixup > 0, augment.cutmix > 0 or sides)
    return [
        ('beside --no-aug', not augment.no_aug, augment, _WITHOUT_AUGMENTATION),
        ('beside --aa', jitter, augment, ('color_jitter', 'color_jitter_prob')),
        ('without --reprob', augment.reprob > 0, augment, ('remode', 'recount')),
        ('without --reprob', augment.reprob > 0 or config.norm.split_bn, augment, ('resplit',)),
        ('without --mixup or --cutmix', any(mixes), augment, ('mixup_prob', 'mixup_mode', 'mixup_off_epoch')),
        ('beside --cutmix-minmax', not sides, augment, ('cutmix',)),
        ('without both --mixup and --cutmix', all(mixes), augment, ('mixup_switch_prob',)),
    ]


def _of_task(config: TrainConfig) -> list[_Group]:
    task = config.task
    distill, kind = config.distill, config.distill.kd_distill_type
    weights = {task.loss_class_weight, task.loss_pos_weight}
    counted = task.loss == 'db' or bool(weights & {'neg_pos', 'inv_freq', 'effective_num'})
    return [
        ('without --kd-model-name', distill.kd_model_name is not None, distill, ()),
        ('without --kd-distill-type token', kind == 'token', distill, ('kd_token_distill_type',)),
        (
            'without --kd-distill-type feature',
            kind == 'feature',
            distill,
            ('kd_student_feature_dim', 'kd_teacher_feature_dim'),
        ),
        ('without --task multilabel', task.multilabel, task, ('target_format', 'multilabel_threshold', 'poly_gamma')),
        ('without --loss poly', task.loss == 'poly', task, ('poly_epsilon', 'poly_gamma')),
        ('without weights neg_pos or inv_freq', bool(weights & {'neg_pos', 'inv_freq'}), task, ('loss_weight_power',)),
        ('without --loss db or weights that are computed', counted, task, ('class_stats',)),
    ]
