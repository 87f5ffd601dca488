"""Builds data sets, augmentation and loaders."""

import logging
from typing import Any

import torch
from timm.data import FastCollateMixup, Mixup, create_loader
from torchvision.transforms.functional import resize, to_tensor

from ..data.checks import check_image_folder, check_same_classes, check_splits_differ, class_names
from ..data.factory import create_dataset, is_folder
from ..errors import DebiasError
from ..registration import register, uses_stylize
from ..style_bank import StyleBank
from ..stylizers import create_stylizer
from .config import TrainConfig
from .machine import Machine
from .model import model_dtype

_logger = logging.getLogger(__name__)

STYLE_BANK_SIZE = 256
"""Training images whose styles `--aa …-tstylize` draws from."""


def build_datasets(config: TrainConfig, input_config: dict[str, Any]) -> tuple[Any, Any]:
    """Create and check the training and validation sets; the latter is None where `--val-split` is empty."""
    data = config.data
    root = data.data_dir or data.data
    common = dict(
        img_size=input_config['input_size'][-1],
        class_map=data.class_map,
        download=data.dataset_download,
        batch_size=config.model.batch_size,
        input_img_mode=data.input_img_mode or ('RGB' if input_config['input_size'][0] == 3 else 'L'),
        input_key=data.input_key,
        target_key=data.target_key,
        trust_remote_code=data.dataset_trust_remote_code,
    )
    if root and data.val_split and is_folder(data.dataset):
        check_splits_differ(root, data.train_split, data.val_split)
    train = create_dataset(
        data.dataset,
        root,
        data.train_split,
        is_training=True,
        seed=config.run.seed,
        repeats=config.schedule.epoch_repeats,
        num_samples=data.train_num_samples,
        **common,
    )
    check_image_folder(train)
    if not data.val_split:
        return train, None
    validation = create_dataset(data.dataset, root, data.val_split, num_samples=data.val_num_samples, **common)
    check_image_folder(validation)
    check_same_classes(train, validation)
    return train, validation


def check_labels(config: TrainConfig, train: Any, num_classes: int, machine: Machine) -> None:
    """Raise `DebiasError` where the data has more classes than the model, or less images than a batch."""
    names = class_names(train)
    if names is not None and len(names) > num_classes:
        raise DebiasError(f'the data has {len(names)} classes and the model {num_classes}: --num-classes {len(names)}')
    if names is not None and len(names) < num_classes and machine.is_primary:
        _logger.warning(f'The data has {len(names)} classes and the model {num_classes}: --num-classes {len(names)}?')
    per_process = len(train) // machine.world_size if hasattr(train, '__len__') else None
    if per_process is not None and per_process < config.model.batch_size:
        raise DebiasError(
            f'--batch-size {config.model.batch_size} is more than the {per_process} training images of a process, '
            'and training drops incomplete batches; choose a smaller one'
        )


def register_augmentations(config: TrainConfig, train: Any, input_config: dict[str, Any]) -> None:
    """Make `--aa …-tstylize` work: register timm's Stylize with the styles of training images.

    Raises:
        DebiasError: a data set that gives no image by its number, from which no styles can be drawn.
    """
    if not uses_stylize(config.augment.aa):
        return
    if not hasattr(train, '__getitem__') or not hasattr(train, '__len__'):
        raise DebiasError(f"--aa {config.augment.aa} draws styles from training images, which '{config.data.dataset}' "
                          'gives only as a stream')  # fmt: skip
    stylizer = create_stylizer(config.debias.debias_stylizer, config.debias.debias_stylizer_weights)
    generator = torch.Generator().manual_seed(config.run.seed)
    chosen = torch.randperm(len(train), generator=generator)[:STYLE_BANK_SIZE].tolist()
    size = list(input_config['input_size'][1:])
    pictures = (resize(train[index][0].convert('RGB'), size) for index in chosen)
    register(StyleBank(stylizer, (to_tensor(picture) for picture in pictures)))


def build_train_loader(
    config: TrainConfig, dataset: Any, input_config: dict[str, Any], num_classes: int, machine: Machine
) -> tuple[Any, Any]:
    """Create the training loader and the `mixup_fn` that the loop has to call (None where loader or task mix)."""
    augment = config.augment
    # A debiased task mixes and erases itself, after stylisation.
    debias = bool(config.debias.debias)
    mixup_options = {} if debias else augment.mixup_kwargs(num_classes)
    collate_fn = mixup_fn = None
    if mixup_options and config.run.no_prefetcher:
        mixup_fn = Mixup(**mixup_options)
    elif mixup_options:
        collate_fn = FastCollateMixup(**mixup_options)
    # timm hands its flags over as they are parsed: lists where its annotations say tuples, None where they say float.
    random_options: dict[str, Any] = dict(
        scale=augment.scale,
        ratio=augment.ratio,
        grayscale_prob=augment.grayscale_prob,
        gaussian_blur_prob=augment.gaussian_blur_prob,
        num_aug_repeats=augment.aug_repeats,
    )
    no_random = augment.no_aug or not augment.train_interpolation
    loader = create_loader(
        dataset,
        input_size=input_config['input_size'],
        batch_size=config.model.batch_size,
        is_training=True,
        no_aug=augment.no_aug,
        re_prob=0.0 if debias else augment.reprob,
        re_mode=augment.remode,
        re_count=augment.recount,
        train_crop_mode=augment.train_crop_mode,
        hflip=augment.hflip,
        vflip=augment.vflip,
        color_jitter=augment.color_jitter,
        color_jitter_prob=augment.color_jitter_prob,
        auto_augment=augment.aa,
        interpolation=input_config['interpolation'] if no_random else augment.train_interpolation,
        num_workers=config.run.workers,
        worker_seeding=config.run.worker_seeding,
        collate_fn=collate_fn,
        use_multi_epochs_loader=config.run.use_multi_epochs_loader,
        **random_options,
        **_loader_options(config, input_config, machine),
    )
    return loader, mixup_fn


def build_eval_loader(config: TrainConfig, dataset: Any, input_config: dict[str, Any], machine: Machine) -> Any:
    """Create a loader over `dataset` for validation."""
    return create_loader(
        dataset,
        input_size=input_config['input_size'],
        batch_size=config.model.validation_batch_size or config.model.batch_size,
        is_training=False,
        interpolation=input_config['interpolation'],
        num_workers=config.run.workers,
        crop_pct=input_config['crop_pct'],
        **_loader_options(config, input_config, machine),
    )


def _loader_options(config: TrainConfig, input_config: dict[str, Any], machine: Machine) -> dict[str, Any]:
    return dict(
        mean=input_config['mean'],
        std=input_config['std'],
        pin_memory=config.run.pin_mem,
        img_dtype=model_dtype(config) or torch.float32,
        device=machine.device,
        distributed=machine.distributed,
        use_prefetcher=not config.run.no_prefetcher,
    )
