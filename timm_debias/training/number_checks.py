"""Refuses numbers that no run can be meant to have, before any work is done."""

from ..bounds import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, SHARE, check_bounds
from ..checks import check_seed
from ..errors import DebiasError
from .config import TrainConfig

_FIELDS = {
    COUNT: (
        'batch_size', 'validation_batch_size', 'epochs', 'lr_base_size', 'recount', 'grad_accum_steps', 'img_size',
        'num_classes', 'log_interval', 'val_interval', 'checkpoint_hist', 'train_num_samples', 'val_num_samples',
        'lr_cycle_limit', 'decay_milestones', 'train_img_sizes', 'train_batch_sizes', 'train_batches_per_epoch',
        'naflex_train_seq_lens', 'naflex_max_seq_len', 'naflex_patch_sizes', 'in_chans', 'input_size',
    ),
    NOT_NEGATIVE: (
        'lr', 'workers', 'recovery_interval', 'warmup_epochs', 'cooldown_epochs', 'patience_epochs', 'warmup_lr',
        'min_lr', 'weight_decay', 'opt_eps', 'momentum', 'layer_decay_min_scale', 'lr_cycle_decay', 'lr_noise_std',
        'epoch_repeats', 'aug_repeats', 'color_jitter', 'mixup', 'cutmix', 'mixup_off_epoch',
    ),
    POSITIVE: (
        'lr_base', 'decay_epochs', 'decay_rate', 'lr_cycle_mul', 'lr_k_decay', 'lr_stable_timescale',
        'clip_grad', 'layer_decay', 'bn_eps',
    ),
    SHARE: (
        'drop', 'drop_path', 'drop_connect', 'drop_block', 'hflip', 'vflip', 'reprob', 'mixup_prob',
        'mixup_switch_prob', 'color_jitter_prob', 'grayscale_prob', 'gaussian_blur_prob', 'lr_noise_pct', 'bn_momentum',
        'model_ema_decay',
    ),
    BELOW_ONE: ('smoothing', 'opt_betas'),
}  # fmt: skip


def check_numbers(config: TrainConfig) -> None:
    """Raise `DebiasError` for the first number that lies outside of what its flag can mean."""
    check_bounds(vars(config).values(), _FIELDS)
    check_seed(config.run.seed)
    milestones = config.schedule.decay_milestones
    if milestones != sorted(milestones):
        raise DebiasError(f'--decay-milestones is {" ".join(map(str, milestones))}; expected the earlier epochs first')
