"""Batches as a function of (seed, epoch, batch): what an epoch shows does not depend on what ran before it.

timm's loaders draw from generators that live as long as their process, so that a resumed run sees other crops than the
run it goes on with. Here every sample is seeded on its own before it is read and augmented, and so are the mixing of
a batch in the workers and random erasing. The same images come out of any number of workers, and of any number of
processes whose batches add up to the same.
"""

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from timm.data import FastCollateMixup
from timm.data.scheduled_sampler import ScheduledBatchSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, get_worker_info

from ..data.reading import Failure, image_name, label_error
from ..errors import DebiasError
from ..machine import Machine
from .bad_images import BadImage, Delivered, Item, Report, Samples, refusal, report_of
from .randomness import derive_seed, kept_random_state, seed_host
from .sampler import BatchesFrom, EpochSampler, SampleKey
from .signals import init_worker
from .workers import Workers, host_generators


class SeededLoader:
    """timm's training loader with its order and its randomness made a function of seed, epoch and batch.

    Args:
        loader: What `timm.data.create_loader(is_training=True)` returned, or `create_naflex_loader`; taken over.
        seed: Seed of the run.
        machine: The process's place among those of the run, which share one order of the images.
        repeats: Samples in a row that show the same image, as timm's `--aug-repeats`.
        mixup_off_epoch: Epoch from which `FastCollateMixup` does not mix; 0 for never.
        on_bad_image: What to do at an image that cannot be read: `error`, `skip` or `replace`. Streams and NaFlex
            batches are left to their readers.
        num_classes: Class indices must lie below; unchecked where None.

    Attributes:
        report: What the batch that was given last is made of.

    Raises:
        DebiasError: the data is less than one batch of all processes.
    """

    def __init__(
        self,
        loader: Any,
        seed: int,
        machine: Machine,
        repeats: float = 0.0,
        mixup_off_epoch: int = 0,
        on_bad_image: str = 'error',
        num_classes: int | None = None,
    ) -> None:
        self.seed = seed
        self.machine = machine
        self._generator = torch.Generator()
        has_prefetcher = not isinstance(loader, DataLoader)
        inner = loader.loader if has_prefetcher else loader
        self.is_stream = isinstance(inner.dataset, IterableDataset)
        self._first = 0
        self.report = Report()
        name = partial(_stream_name if self.is_stream else image_name, inner.dataset)
        self.workers = Workers(inner.num_workers, name)
        options: dict[str, Any] = {}
        if self.is_stream:
            keyed = inner.batch_size is not None
            self._stream = _SeededStream(inner.dataset, seed, machine.rank, keyed, self.workers, num_classes)
            options.update(dataset=self._stream, batch_size=inner.batch_size, drop_last=inner.drop_last)
        else:
            sampler = EpochSampler(len(inner.dataset), seed, machine.rank, machine.world_size, max(repeats, 1.0))
            self._sampler = sampler
            self.batch_sampler = _rebuilt_batches(inner, sampler)
            self._batches = BatchesFrom(self.batch_sampler)
            samples = Samples(inner.dataset, seed, on_bad_image, num_classes)
            options.update(dataset=_SeededDataset(samples, self.workers), batch_sampler=self._batches)
        has_reports = inner.batch_size is not None or not self.is_stream
        if has_reports:
            named = None if self.is_stream else inner.dataset
            options.update(collate_fn=_SeededCollate(inner.collate_fn, seed, mixup_off_epoch, named, on_bad_image))
        rebuilt: Any = DataLoader(
            num_workers=inner.num_workers,
            pin_memory=inner.pin_memory,
            worker_init_fn=init_worker,
            generator=self._generator,
            # Workers of a stream start anew each epoch: what they shuffle with would depend on the epochs before.
            persistent_workers=inner.num_workers > 0 and not self.is_stream,
            **options,
        )
        self._delivered = rebuilt = Delivered(rebuilt, on_bad_image) if has_reports else rebuilt
        self._erasing = None
        if has_prefetcher:
            loader.loader = rebuilt
            if loader.random_erasing is not None:
                loader.random_erasing = self._erasing = _SeededErasing(loader.random_erasing, seed, machine)
        self.loader = loader if has_prefetcher else rebuilt
        if not self.is_stream and len(self) == 0:
            raise DebiasError(f'{len(inner.dataset)} training images are less than one batch of every process')

    def set_position(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration start at a batch of an epoch.

        Data sets with numbered images go there at once; a stream is read from the start of the epoch, and what comes
        before the batch is thrown away.
        """
        self._first = batch if self.is_stream else 0
        if self.is_stream:
            self._stream.set_epoch(epoch)
        else:
            self._batches.first = batch
            self._sampler.set_epoch(epoch)
            if hasattr(self.batch_sampler, 'set_epoch'):
                self.batch_sampler.set_epoch(epoch)
        if self._erasing is not None:
            self._erasing.set_position(epoch, batch - self._first)
        # The base of the workers' own seeds, which a stream may shuffle with.
        self._generator.manual_seed(derive_seed(self.seed, epoch, self.machine.rank, 'workers'))

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, torch.Tensor]]:
        """Yield images and targets, as timm's loader gives them, from the position on.

        Raises:
            DebiasError: an image that cannot be read, or a label of no class.
        """
        for number, batch in enumerate(self.loader):
            report = self._delivered.report() if isinstance(self._delivered, Delivered) else Report()
            if number >= self._first:
                self.report = report
                yield batch


class _SeededDataset(Dataset):
    """Asks for samples by `SampleKey`."""

    def __init__(self, samples: Samples, workers: Workers) -> None:
        self.samples = samples
        self.workers = workers

    def __len__(self) -> int:
        return len(self.samples.dataset)

    def __getitems__(self, keys: Sequence[Any]) -> list[Item]:
        with host_generators():
            return [self._sample(key) for key in keys]

    def _sample(self, key: Any) -> Item:
        size: tuple[int, ...] = ()
        if not isinstance(key, SampleKey):  # A batch sampler with a schedule of sizes adds the number of the size.
            key, *size = key
        with self.workers.reading(key.image):
            return self.samples.read(key, tuple(size))


class _SeededStream(IterableDataset):
    """Iterates over a stream, all generators seeded before each sample by its number in this worker.

    Args:
        dataset: timm's iterable data set.
        seed: Seed of the run.
        rank: Number of this process.
        keyed: Yield what `Samples.read` returns; else the samples alone.
        workers: Notes which sample a data worker reads.
        num_classes: Class indices of keyed samples must lie below; unchecked where None.
    """

    def __init__(
        self, dataset: Any, seed: int, rank: int, keyed: bool, workers: Workers, num_classes: int | None
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.rank = rank
        self.keyed = keyed
        self.workers = workers
        self.num_classes = num_classes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        if hasattr(self.dataset, 'set_epoch'):
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        dataset = copy.copy(self.dataset)
        if hasattr(dataset, 'reader'):
            # A reader sets up its shuffling when it begins and keeps it, so each epoch gets one that has not begun.
            dataset.reader = copy.copy(dataset.reader)
        samples = iter(dataset)
        number = 0
        while True:
            with host_generators(), self.workers.reading(number):
                seed_host(derive_seed(self.seed, self.epoch, self.rank, worker, workers, number))
                sample = next(samples, None)
            if sample is None:
                return
            key = SampleKey(number, self.epoch, number * workers + worker)
            yield self._item(key, sample) if self.keyed else sample
            number += 1

    def _item(self, key: SampleKey, sample: Any) -> Item:
        wrong = label_error(sample[1], self.num_classes)
        if wrong is None:
            return key, sample, ()
        failure = Failure(key.image, wrong, fatal=True)
        return key, None, (BadImage(failure, self.workers.name(key.image)),)


class _SeededCollate:
    """Collates a batch and its `Report`, with generators seeded by its first sample where that mixes images.

    Args:
        collate: Collates samples.
        seed: Seed of the run.
        mixup_off_epoch: Epoch from which images are not mixed.
        dataset: Knows the names of the images, None where they have none.
        policy: That of bad images.
    """

    def __init__(self, collate: Any, seed: int, mixup_off_epoch: int, dataset: Any, policy: str) -> None:
        self.collate = collate
        self.seed = seed
        self.mixup_off_epoch = mixup_off_epoch
        self.dataset = dataset
        self.policy = policy

    def __call__(self, items: Sequence[Item]) -> tuple[Any, Any, Report]:
        report = report_of(items, self.dataset)
        samples = [sample for _, sample, _ in items if sample is not None]
        # A batch that will be refused may be one that cannot be collated.
        images, targets = (None, None) if refusal(report, self.policy) else self._collated(report.keys, samples)
        return images, targets, report

    def _collated(self, keys: Sequence[SampleKey], samples: list[Any]) -> Any:
        if not isinstance(self.collate, FastCollateMixup):
            return self.collate(samples)
        epoch = keys[0].epoch
        # Decided here, by the epoch of the samples: a switch in the training process would not reach the workers.
        self.collate.mixup_enabled = not self.mixup_off_epoch or epoch < self.mixup_off_epoch
        with host_generators():
            seed_host(derive_seed(self.seed, epoch, keys[0].position, 'mixup'))
            return self.collate(samples)


class _SeededErasing:
    """timm's random erasing of batches on the device, seeded for each batch."""

    def __init__(self, erasing: Any, seed: int, machine: Machine) -> None:
        self.erasing = erasing
        self.seed = seed
        self.machine = machine
        self.epoch = 0
        self.batch = 0

    def set_position(self, epoch: int, batch: int) -> None:
        self.epoch = epoch
        self.batch = batch

    def __call__(self, images: torch.Tensor, **options: Any) -> torch.Tensor:
        seed = derive_seed(self.seed, self.epoch, self.batch, self.machine.rank, 'erasing')
        self.batch += 1
        with kept_random_state(self.machine.device):
            seed_host(seed)
            if images.device.type != 'cpu':
                torch.get_device_module(images.device).manual_seed(seed)
            return self.erasing(images, **options)


def _rebuilt_batches(loader: DataLoader, sampler: EpochSampler) -> Any:
    """Return the batch sampler of `loader`, over the samples of another sampler."""
    batches = loader.batch_sampler
    if not isinstance(batches, ScheduledBatchSampler):
        return BatchSampler(sampler, loader.batch_size or 1, drop_last=True)
    return ScheduledBatchSampler(
        sampler,
        batches.batch_sizes,
        batches.choice_weights.tolist(),
        seed=batches.seed,
        num_batches=batches.num_batches,
        choice_schedule=batches.choice_schedule,
        schedule_epochs=batches.schedule_epochs,
        schedule_spread=batches.schedule_spread,
        schedule_random_mix=batches.schedule_random_mix,
    )


def _stream_name(dataset: Any, number: int) -> str:
    return f'sample {number} of its part of the stream'
