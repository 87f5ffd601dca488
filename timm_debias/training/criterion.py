"""Builds the loss that the flags name."""

from typing import Any

from timm.loss import create_classification_loss
from timm.loss.class_weights import load_class_stats, resolve_class_weights
from torch import nn

from ..errors import DebiasError, reason
from .config import TrainConfig


def build_criterion(config: TrainConfig, num_classes: int | None = None) -> nn.Module:
    """Create timm's loss.

    Args:
        config: What to train, its defaults filled in.
        num_classes: Number of classes that weights and counts are checked against; None leaves that out.

    Raises:
        DebiasError: options that the loss does not take, weights or counts that cannot be read or do not fit.
    """
    task = config.task
    try:
        stats = load_class_stats(task.class_stats)
        weights: dict[str, Any] = {
            kind: resolve_class_weights(value, kind, stats, power=task.loss_weight_power)
            for kind, value in (('class_weight', task.loss_class_weight), ('pos_weight', task.loss_pos_weight))
        }
        lengths = {f'--loss-{kind.replace("_", "-")}': _length(weight) for kind, weight in weights.items()}
        lengths['--class-stats'] = None if stats is None else len(stats[0])
        for flag, length in lengths.items():
            if length is not None and num_classes is not None and length != num_classes:
                raise DebiasError(f'{flag} has {length} entries and the model has {num_classes} classes')
        return create_classification_loss(**weights, **_options(config, stats))
    except DebiasError:
        raise
    except Exception as error:  # Losses, and readers of files of counts, raise almost anything.
        raise DebiasError(f'--loss {task.loss}: {reason(error)}') from error


def _length(weight: Any) -> int | None:
    return len(weight) if hasattr(weight, '__len__') else None


def _options(config: TrainConfig, stats: Any) -> dict[str, Any]:
    task, augment = config.task, config.augment
    options: dict[str, Any] = dict(
        loss_type=task.loss,
        multi_label=task.multilabel,
        smoothing=augment.smoothing,
        soft_targets=augment.mixup_active,
        bce_target_thresh=augment.bce_target_thresh,
        bce_sum=augment.bce_sum,
    )
    if task.loss == 'poly':
        options |= dict(poly_epsilon=task.poly_epsilon, poly_gamma=task.poly_gamma)
    if task.loss == 'jsd':
        options['jsd_splits'] = augment.aug_splits
    if task.loss == 'db' and stats is not None:
        options |= dict(class_counts=stats[0], num_samples=stats[1])
    return options
