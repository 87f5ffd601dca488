"""Builds data sets, augmentation and loaders."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from timm.data import AugMixDataset, FastCollateMixup, Mixup, create_loader
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.target_transforms import MultiLabelTarget
from torch.utils.data import IterableDataset
from torchvision.transforms.functional import resize, to_tensor

from ..data.checks import check_image_folder, check_same_classes, check_splits_differ, class_names
from ..data.factory import create_dataset, is_folder
from ..data.reading import image_name, is_bad_image, label_error
from ..errors import DebiasError, reason
from ..machine import Machine
from ..registration import register, uses_stylize
from ..style_bank import StyleBank
from ..stylizers import create_stylizer
from .bad_images import ADVICE
from .config import TrainConfig
from .eval_loader import EvalLoader
from .model import model_dtype
from .naflex import build_naflex_eval_loader, build_naflex_train_loader
from .posterize import repair_posterize
from .seeded_loader import SeededLoader

_logger = logging.getLogger(__name__)

STYLE_BANK_SIZE = 256
"""Training images whose styles `--aa …-tstylize` draws from."""


def build_datasets(config: TrainConfig, input_config: dict[str, Any], num_classes: int) -> tuple[Any, Any]:
    """Create and check the training and validation sets; the latter is None where `--val-split` is empty."""
    data = config.data
    root = data.data_dir or data.data
    common: dict[str, Any] = dict(
        img_size=input_config['input_size'][-1],
        class_map=data.class_map,
        download=data.dataset_download,
        batch_size=config.model.batch_size,
        input_img_mode=data.input_img_mode or ('RGB' if input_config['input_size'][0] == 3 else 'L'),
        input_key=data.input_key,
        target_key=data.target_key,
        trust_remote_code=data.dataset_trust_remote_code,
    )
    if config.task.multilabel:
        dense = config.task.target_format == 'multihot'
        common |= dict(
            target_transform=MultiLabelTarget(num_classes, dense=dense), target_format=config.task.target_format
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
    stops = config.faults.on_bad_image == 'error'
    check_image_folder(train, decode=stops)
    if not data.val_split:
        return train, None
    validation = create_dataset(data.dataset, root, data.val_split, num_samples=data.val_num_samples, **common)
    check_image_folder(validation, decode=stops)
    check_same_classes(train, validation)
    return train, validation


def check_labels(config: TrainConfig, train: Any, num_classes: int, machine: Machine) -> None:
    """Raise `DebiasError` where the data has more classes than the model, or less images than a batch."""
    names = class_names(train)
    if names is not None and len(names) > num_classes:
        raise DebiasError(f'the data has {len(names)} classes and the model {num_classes}: --num-classes {len(names)}')
    if names is not None and len(names) < num_classes and machine.is_primary:
        _logger.warning(f'The data has {len(names)} classes and the model {num_classes}: --num-classes {len(names)}?')
    wrong = _label_out_of_range(train, num_classes)
    if wrong is not None:
        raise DebiasError(f'{wrong}: see --num-classes and --class-map')
    policy = config.faults.on_bad_image
    if policy != 'error' and (config.naflex.naflex_loader or isinstance(train, IterableDataset)):
        raise DebiasError(
            f'--on-bad-image {policy} needs images that are asked for by their number; streams and --naflex-loader '
            'have readers of their own, which leave out what they cannot read and say so in the log: leave it out'
        )
    per_process = len(train) // machine.world_size if hasattr(train, '__len__') else None
    batch_size = min(config.sizes.train_batch_sizes or [config.model.batch_size])
    if per_process is not None and per_process < batch_size:
        raise DebiasError(
            f'--batch-size {batch_size} is more than the {per_process} training images of a process, '
            'and training drops incomplete batches; choose a smaller one'
        )


def _label_out_of_range(dataset: Any, num_classes: int) -> str | None:
    """Return the first image of a folder whose label, from a class map, is no class of the model; None if all are."""
    reader = getattr(dataset, 'reader', None)
    if not isinstance(reader, ReaderImageFolder):
        return None
    for path, label in reader.samples:
        wrong = label_error(label, num_classes)
        if wrong is not None:
            return f'{path}: {wrong}'
    return None


def register_augmentations(config: TrainConfig, train: Any, input_config: dict[str, Any]) -> None:
    """Make `--aa …-tstylize` work: register timm's Stylize with the styles of training images.

    Raises:
        DebiasError: a data set that gives no image by its number, from which no styles can be drawn, or an unreadable
            image where those are an error.
    """
    if not uses_stylize(config.augment.aa):
        return
    if not hasattr(train, '__getitem__') or not hasattr(train, '__len__'):
        raise DebiasError(f"--aa {config.augment.aa} draws styles from training images, which '{config.data.dataset}' "
                          'gives only as a stream')  # fmt: skip
    stylizer = create_stylizer(config.debias.debias_stylizer, config.debias.debias_stylizer_weights)
    size = list(input_config['input_size'][1:])
    pictures = islice(_style_pictures(config, train), STYLE_BANK_SIZE)
    register(StyleBank(stylizer, (to_tensor(resize(picture.convert('RGB'), size)) for picture in pictures)))


def _style_pictures(config: TrainConfig, train: Any) -> Iterator[Any]:
    """Yield training images in an order of the run's seed; unreadable ones are what `--on-bad-image` says of them."""
    generator = torch.Generator().manual_seed(config.run.seed)
    for index in torch.randperm(len(train), generator=generator).tolist():
        try:
            picture = train[index][0]
        except Exception as error:
            if not is_bad_image(error):
                raise
            if config.faults.on_bad_image == 'error':
                raise DebiasError(f'unreadable image {image_name(train, index)} ({reason(error)}): {ADVICE}') from error
            continue
        yield picture


def build_train_loader(
    config: TrainConfig, dataset: Any, model: Any, input_config: dict[str, Any], num_classes: int, machine: Machine
) -> tuple[SeededLoader, Any]:
    """Create the training loader and the `mixup_fn` that the loop has to call (None where loader or task mix).

    Raises:
        DebiasError: options that timm's loaders refuse.
    """
    # A debiased task mixes itself, after stylisation.
    mixup_options = {} if config.debias.debias else config.augment.mixup_kwargs(num_classes)
    if mixup_options:
        mixup_options['multi_label'] = config.task.multilabel
    options = _train_options(config, input_config) | _loader_options(config, input_config, machine)
    augment = config.augment
    repair_posterize()
    indices_below = None if config.task.multilabel else num_classes
    collate_fn = mixup_fn = None
    try:
        if config.naflex.naflex_loader:
            options['channels'] = input_config['input_size'][0]
            loader = build_naflex_train_loader(config, dataset, model, mixup_options, machine, **options)
            return SeededLoader(loader, config.run.seed, machine, num_classes=indices_below), None
        if mixup_options and config.run.no_prefetcher:
            mixup_fn = Mixup(**mixup_options)
        elif mixup_options:
            collate_fn = FastCollateMixup(**mixup_options)
        if augment.aug_splits:
            dataset = AugMixDataset(dataset, num_splits=augment.aug_splits)
        loader = create_loader(
            dataset,
            input_size=input_config['input_size'],
            collate_fn=collate_fn,
            use_multi_epochs_loader=config.run.use_multi_epochs_loader,
            **_size_options(config),
            **options,
        )
    except (AssertionError, TypeError, ValueError) as error:
        raise DebiasError(f'the training loader cannot be made: {reason(error)}') from error
    seeded = SeededLoader(
        loader,
        config.run.seed,
        machine,
        augment.aug_repeats,
        augment.mixup_off_epoch,
        config.faults.on_bad_image,
        indices_below,
    )
    return seeded, mixup_fn


def build_eval_loader(
    config: TrainConfig, dataset: Any, model: Any, input_config: dict[str, Any], num_classes: int, machine: Machine
) -> EvalLoader:
    """Create a loader over `dataset` for validation."""
    options: dict[str, Any] = dict(
        batch_size=config.model.validation_batch_size or config.model.batch_size,
        is_training=False,
        interpolation=input_config['interpolation'],
        num_workers=config.run.workers,
        crop_pct=input_config['crop_pct'],
        **_loader_options(config, input_config, machine),
    )
    build: Callable[[Any], Any]
    if config.naflex.naflex_loader:
        build = partial(
            build_naflex_eval_loader, config, model=model, channels=input_config['input_size'][0], **options
        )
    else:
        build = partial(create_loader, input_size=input_config['input_size'], **options)
    indices_below = None if config.task.multilabel else num_classes
    # In validation nothing stands for another image: one that `replace` would replace is left out.
    policy = 'error' if config.faults.on_bad_image == 'error' else 'skip'
    return EvalLoader(build, dataset, config.run.workers, policy, indices_below)


def _train_options(config: TrainConfig, input_config: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a training loader that timm's plain and NaFlex loaders share."""
    augment = config.augment
    no_random = augment.no_aug or not augment.train_interpolation
    return dict(
        batch_size=config.model.batch_size,
        is_training=True,
        no_aug=augment.no_aug,
        re_prob=0.0 if config.debias.debias else augment.reprob,  # A debiased task erases after stylisation.
        re_mode=augment.remode,
        re_count=augment.recount,
        re_split=augment.resplit,
        train_crop_mode=augment.train_crop_mode,
        scale=augment.scale,
        ratio=augment.ratio,
        hflip=augment.hflip,
        vflip=augment.vflip,
        color_jitter=augment.color_jitter,
        color_jitter_prob=augment.color_jitter_prob,
        grayscale_prob=augment.grayscale_prob,
        gaussian_blur_prob=augment.gaussian_blur_prob,
        auto_augment=augment.aa,
        num_aug_repeats=augment.aug_repeats,
        num_aug_splits=augment.aug_splits,
        interpolation=input_config['interpolation'] if no_random else augment.train_interpolation,
        num_workers=config.run.workers,
        worker_seeding=config.run.worker_seeding,
    )


def _size_options(config: TrainConfig) -> dict[str, Any]:
    """Return the options of `--train-img-sizes` and its kin, empty where it is not given."""
    sizes = config.sizes
    if sizes.train_img_sizes is None:
        return {}
    progressive = sizes.train_size_schedule == 'progressive'
    return dict(
        input_size_choices=sizes.train_img_sizes,
        batch_size_choices=sizes.train_batch_sizes,
        batch_choice_weights=sizes.train_size_probs,
        batch_choice_seed=config.run.seed,
        batch_choice_schedule=sizes.train_size_schedule,
        batch_schedule_epochs=config.schedule.epochs if progressive else None,
        batch_schedule_spread=sizes.train_size_schedule_spread,
        batch_schedule_random_mix=sizes.train_size_random_mix,
        num_batches=sizes.train_batches_per_epoch,
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
