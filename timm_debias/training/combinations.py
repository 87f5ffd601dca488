"""Which of timm's flags go together, and which with `--debias`."""

import os
from collections.abc import Callable
from typing import Any

from timm.task import ClassificationEvaluator, MultiLabelClassificationEvaluator

from ..data.factory import is_folder
from ..errors import DebiasError, did_you_mean
from .config import TrainConfig

REFUSED_WITH_DEBIAS: dict[str, tuple[Callable[[TrainConfig], bool], str]] = {
    '--naflex-loader': (
        lambda config: config.naflex.naflex_loader,
        'style transfer needs whole images of one size, and NaFlex batches are patches of images of many sizes',
    ),
    '--task multilabel': (
        lambda config: config.task.multilabel,
        'a stylised image has one label for its shape and one for its texture',
    ),
    '--kd-model-name': (
        lambda config: config.distill.kd_model_name is not None,
        "timm's distillation tasks take a step of their own, on clean images alone",
    ),
    '--aug-splits': (
        lambda config: config.augment.aug_splits > 0,
        "copies of an image would be each other's texture partners; try --aa augmix-m3-w3 instead",
    ),
    '--jsd-loss': (
        lambda config: config.task.loss == 'jsd',
        "it compares copies of an image, which would be each other's texture partners; try --aa augmix-m3-w3 instead",
    ),
    '--resplit': (
        lambda config: config.augment.resplit,
        'its split of the batch is not that into clean and stylised images',
    ),
    '--split-bn': (
        lambda config: config.norm.split_bn,
        'clean and stylised images have batch norms of their own already',
    ),
    '--torchscript': (
        lambda config: config.model.torchscript and not config.debias.no_debias_aux_bn,
        'a scripted model cannot switch its batch norms; try --torchcompile, or --no-debias-aux-bn',
    ),
    '--loss asl': (
        lambda config: config.task.loss == 'asl',
        'the loss has to be linear in its target, and this one is not; try ce, bce or poly',
    ),
}
"""Flag -> (whether it is given, why not). What depends on further flags is in `debias_checks`."""

_REFUSED_WITH_NAFLEX: dict[str, tuple[Callable[[TrainConfig], Any], str]] = {
    '--train-img-sizes': (lambda config: config.sizes.train_img_sizes, 'it draws sequence lengths'),
    '--use-multi-epochs-loader': (lambda config: config.run.use_multi_epochs_loader, 'it has a loader of its own'),
    '--no-prefetcher': (lambda config: config.run.no_prefetcher, 'the prefetcher normalises its patches'),
    '--channels-last': (lambda config: config.model.channels_last, 'patches have no such layout'),
    '--save-images': (lambda config: config.run.save_images, 'patches are no pictures'),
    '--aug-splits': (lambda config: config.augment.aug_splits, 'it cannot split batches'),
    '--aug-repeats': (lambda config: config.augment.aug_repeats, 'it cannot repeat images'),
    '--resplit': (lambda config: config.augment.resplit, 'it erases patches in all of the batch'),
    '--kd-model-name': (lambda config: config.distill.kd_model_name, 'the teacher takes images'),
    '--cutmix-minmax': (lambda config: config.augment.cutmix_minmax, 'its CutMix has no such range'),
    '--mixup-mode': (lambda config: config.augment.mixup_mode != 'batch', 'it mixes pairs of like aspect ratio'),
}


def check_combinations(config: TrainConfig) -> None:
    """Raise `DebiasError` for the first flags that contradict each other."""
    if config.naflex.naflex_loader:
        _refuse(config, '--naflex-loader', _REFUSED_WITH_NAFLEX)
    _check_splits(config)
    _check_compiling(config)
    _check_task(config)
    _check_sizes(config)
    _check_epochs(config)
    _check_machine(config)


def refuse_with_debias(config: TrainConfig) -> None:
    """Raise `DebiasError` for the first flag that does not go with `--debias`."""
    _refuse(config, '--debias', REFUSED_WITH_DEBIAS)


def _refuse(config: TrainConfig, switch: str, table: dict[str, tuple[Callable[[TrainConfig], Any], str]]) -> None:
    for flag, (given, reason) in table.items():
        if given(config):
            raise DebiasError(f'{flag} does not go with {switch}: {reason}')


def _check_splits(config: TrainConfig) -> None:
    augment, splits = config.augment, config.augment.aug_splits
    if splits < 0 or splits == 1:
        raise DebiasError(f'--aug-splits is {splits}; expected 0 for none, or at least 2')
    if config.task.loss == 'jsd' and not splits:
        raise DebiasError('--loss jsd compares the copies of an image that --aug-splits makes: give --aug-splits 3')
    if splits and augment.mixup_active:
        raise DebiasError('--mixup and --cutmix do not go with --aug-splits: they would mix copies of an image')
    if splits and config.sizes.train_img_sizes is not None:
        raise DebiasError('--aug-splits does not go with --train-img-sizes: augmented copies have one size')
    if config.norm.split_bn and not (splits or augment.resplit):
        raise DebiasError('--split-bn needs the splits of --aug-splits, or --resplit')
    flag_name = '--train-batch-sizes' if config.sizes.train_batch_sizes else '--batch-size'
    odd = [size for size in config.sizes.train_batch_sizes or [config.model.batch_size] if size % 2]
    if config.norm.split_bn and not splits and odd:
        raise DebiasError(f'--split-bn halves the batch: {flag_name} {odd[0]} has to be even')
    if config.norm.split_bn and config.norm.sync_bn:
        raise DebiasError('--split-bn does not go with --sync-bn, which would undo the split')


def _check_compiling(config: TrainConfig) -> None:
    model = config.model
    if model.torchscript:
        refused = {
            '--torchcompile': model.torchcompile,
            '--sync-bn': config.norm.sync_bn,
            '--layer-decay': config.optimizer.layer_decay,
            '--kd-model-name': config.distill.kd_model_name,
            '--grad-checkpointing': model.grad_checkpointing,
        }
        for flag, given in refused.items():
            if given:
                raise DebiasError(f'{flag} does not go with --torchscript')
    if model.fuser in ('nvfuser', 'nvf'):
        raise DebiasError(f'--fuser {model.fuser}: torch has it no longer; the others are te and old')


def _check_task(config: TrainConfig) -> None:
    task = config.task
    evaluator = MultiLabelClassificationEvaluator if task.multilabel else ClassificationEvaluator
    if config.run.eval_metric not in evaluator.metric_names:
        hint = did_you_mean(config.run.eval_metric, evaluator.metric_names)
        raise DebiasError(f"--eval-metric '{config.run.eval_metric}' is not measured with --task {task.task}. {hint}")
    if not task.multilabel:
        return
    if not 0 < task.multilabel_threshold < 1:
        raise DebiasError(f'--multilabel-threshold is {task.multilabel_threshold}; a probability lies between 0 and 1')
    if is_folder(config.data.dataset) or '/' not in config.data.dataset:
        raise DebiasError(
            '--task multilabel needs images with lists of labels: --dataset hfds/…, hfids/…, tfds/… or wds/…'
        )


def _check_sizes(config: TrainConfig) -> None:
    sizes, naflex = config.sizes, config.naflex
    images = sizes.train_img_sizes
    if images is not None:
        if config.run.use_multi_epochs_loader:
            raise DebiasError('--use-multi-epochs-loader does not go with --train-img-sizes')
        for flag, values in (
            ('--train-batch-sizes', sizes.train_batch_sizes),
            ('--train-size-probs', sizes.train_size_probs),
        ):
            if values is not None and len(values) != len(images):
                raise DebiasError(f'{flag} has {len(values)} values and --train-img-sizes {len(images)}')
        if config.debias.debias and config.debias.debias_style_dir is None and min(sizes.train_batch_sizes or [2]) < 2:
            raise DebiasError('--train-batch-sizes: a batch of 1 has no texture partners; --debias needs at least 2')
    probs, patches = naflex.naflex_patch_size_probs, naflex.naflex_patch_sizes
    if naflex.naflex_loader and probs is not None and len(probs) != len(patches or []):
        raise DebiasError(
            f'--naflex-patch-size-probs has {len(probs)} values, --naflex-patch-sizes {len(patches or [])}'
        )


def _check_epochs(config: TrainConfig) -> None:
    schedule, model = config.schedule, config.model
    if model.resume == 'auto' and not config.run.experiment:
        raise DebiasError('--resume auto goes on in the folder of --experiment: give that too')
    if schedule.sched == 'plateau' and schedule.sched_on_updates:
        raise DebiasError('--sched plateau steps on epochs: leave --sched-on-updates out')
    if schedule.start_epoch is not None and schedule.start_epoch < 0:
        raise DebiasError(f'--start-epoch is {schedule.start_epoch}; the first epoch has the number 0')
    for flag, value in (('--stop-epoch', schedule.stop_epoch), ('--save-epochs', min(config.run.save_epochs or [1]))):
        if value is not None and value < 1:
            raise DebiasError(f'{flag} is {value}; epochs are counted from 1 as they are finished')


def _check_machine(config: TrainConfig) -> None:
    device, tta = config.device, config.run.tta
    if tta > 1:
        raise DebiasError(
            f'--tta {tta} is refused: no loader of timm gives {tta} versions of an image, so it would average the '
            'predictions of different images'
        )
    if config.run.worker_seeding != 'all':
        raise DebiasError('--worker-seeding part: every image has a seed of its own, whoever reads it; leave it out')
    rank = os.environ.get('LOCAL_RANK', '0')
    if device.local_rank and str(device.local_rank) != rank:
        raise DebiasError(
            f'--local_rank is {device.local_rank} and the environment variable LOCAL_RANK is {rank}, which counts; '
            'start the processes with torchrun'
        )
