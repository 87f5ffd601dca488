"""Defaults that depend on other flags, and short names of flags, as timm's train.py fills them in."""

from dataclasses import replace

from ..errors import DebiasError
from .config import TrainConfig


def fill_defaults(config: TrainConfig) -> TrainConfig:
    """Return `config` with its loss, weights, label smoothing, stochastic depth and metric as they will be used.

    Raises:
        DebiasError: two flags that name different losses, weights or rates.
    """
    task, augment, run = config.task, config.augment, config.run
    smoothing = augment.smoothing
    if smoothing is None:
        smoothing = 0.0 if task.multilabel else 0.1
    eval_metric = run.eval_metric
    if eval_metric is None:
        eval_metric = 'map' if task.multilabel else 'top1'
    return replace(
        config,
        task=replace(task, loss=_loss(config), loss_pos_weight=_pos_weight(config)),
        augment=replace(augment, smoothing=smoothing, drop_path=_drop_path(config)),
        run=replace(run, eval_metric=eval_metric),
    )


def _loss(config: TrainConfig) -> str:
    short = {'--bce-loss': config.augment.bce_loss and 'bce', '--jsd-loss': config.augment.jsd_loss and 'jsd'}
    named = {flag: loss for flag, loss in {'--loss': config.task.loss, **short}.items() if loss}
    if len(set(named.values())) > 1:
        flags = ' and '.join(f'{flag} {loss}' if flag == '--loss' else flag for flag, loss in named.items())
        raise DebiasError(f'{flags} name different losses: give one of them')
    if named:
        return str(next(iter(named.values())))
    return 'bce' if config.task.multilabel else 'ce'


def _pos_weight(config: TrainConfig) -> str | None:
    old, new = config.augment.bce_pos_weight, config.task.loss_pos_weight
    if old is not None and new is not None and new != str(old):
        raise DebiasError('--bce-pos-weight is the old name of --loss-pos-weight: give one of them')
    return new if old is None else str(old)


def _drop_path(config: TrainConfig) -> float | None:
    old, new = config.augment.drop_connect, config.augment.drop_path
    if old is not None and new is not None and new != old:
        raise DebiasError('--drop-connect is the old name of --drop-path: give one of them')
    return old if new is None else new
