"""Measures parts: images from the workers through the model into the score of each part."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import DebiasError, reason
from ..evaluate import predict
from ..machine import Machine
from ..normalize import Normalize
from ..out_of_memory import BatchTooLargeError, halve, is_out_of_memory
from ..ranks import agree, gather
from .attacks import PixelModel
from .benchmarks import Part
from .bits import pack
from .config import ValidateConfig
from .loading import AsPublished, Batch, PartBatches, Transform, share
from .model import autocast, check_input_size

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A part to measure, and how its images reach the model."""

    part: Part
    transform: Transform


def measure(
    config: ValidateConfig, model: nn.Module, input_config: dict[str, Any], tasks: Sequence[Task], machine: Machine
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the result of each part as soon as it is measured, the same on all processes.

    Args:
        config: The flags.
        model: Where and as it is to run; put in eval mode.
        input_config: timm's data configuration of the model.
        tasks: What to measure.
        machine: The processes of the run, which share the images.

    Yields:
        Name, and `state` (of the part's score), `images` (number counted), `skipped` (names of unreadable ones) and
        `right` (which of the counted images are right, in their order, packed by `bits.pack`; None where the score does
        not tell), `batch_size` (of each process).

    Raises:
        DebiasError: a model that does not take the images, an image that cannot be used, logits that are not finite, or
            batches too large for the memory, with `--retry` only where a single image is.
    """
    runner = _Runner(config, model, input_config, tasks, machine)
    own = tuple(input_config['input_size'][-2:])
    sizes = {(task.transform.size,) * 2 if isinstance(task.transform, AsPublished) else own for task in tasks}
    agree(machine, lambda: _check_sizes(config, model, sizes, own, machine))
    batch_size = config.run.batch_size
    left = list(tasks)
    while left:
        try:
            for name, result in _measure_until_full(runner, left, batch_size):
                left.pop(0)
                yield name, result
        except BatchTooLargeError as error:
            if not config.run.retry:
                raise
            batch_size = halve(batch_size, error)


def _measure_until_full(
    runner: '_Runner', tasks: Sequence[Task], batch_size: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield results as `measure` does, until a batch is too large for the memory of one of the processes."""
    run, machine = runner.config.run, runner.machine
    tasks = list(tasks)
    batches = PartBatches(
        [(task.part.images, task.transform) for task in tasks],
        batch_size,
        run.workers,
        run.pin_mem,
        machine.rank,
        machine.world_size,
    )
    for task, loaded in zip(tasks, batches, strict=True):
        part = task.part
        results = gather(machine, partial(runner.run, part, loaded, batch_size))
        images = sum(result['images'] for result in results)
        if not images:
            raise DebiasError(f'{part.name}: none of its {len(part.images)} images can be read')
        runner.progress.end()
        rights = [result['right'] for result in results if result['right'] is not None]
        yield (
            part.name,
            {
                'state': part.score().merge([result['state'] for result in results]),
                'images': images,
                'skipped': [name for result in results for name in result['skipped']],
                'right': pack(np.concatenate(rights)) if rights else None,
                'batch_size': batch_size,
            },
        )


def _check_sizes(
    config: ValidateConfig, model: nn.Module, sizes: set[tuple[int, int]], own: tuple[int, int], machine: Machine
) -> None:
    """Raise `DebiasError` where the model does not take images of a size; `own` is that of its own transform."""
    for size in sorted(sizes):
        published = '' if size == own else ', the size of a benchmark that must not be resized'
        check_input_size(config, model, (3, *size), machine, published)


class _Runner:
    """The model, its normalisation, and how far the run is."""

    def __init__(
        self,
        config: ValidateConfig,
        model: nn.Module,
        input_config: dict[str, Any],
        tasks: Sequence[Task],
        machine: Machine,
    ) -> None:
        self.config = config
        self.machine = machine
        self.progress = _Progress(tasks, config.run.log_freq)
        self._device = torch.device(config.run.device)
        self._model = model
        mean, std = input_config['mean'], input_config['std']
        self._normalize = Normalize(mean, std).to(self._device)
        self._pixel_model = PixelModel(model, mean, std).to(self._device)

    def run(self, part: Part, loaded: Iterator[Batch], batch_size: int) -> dict[str, Any]:
        """Return the result of this process's share of a part.

        Raises:
            BatchTooLargeError: out of memory.
            DebiasError: a data worker that died.
        """
        self.progress.begin(part, len(share(len(part.images), batch_size, self.machine.rank, self.machine.world_size)))
        try:
            return self._run(part, loaded)
        except RuntimeError as error:
            if 'DataLoader worker' in str(error):
                raise DebiasError(
                    f'{part.name}: a data worker died ({reason(error)}); give fewer of them by -j, or more memory'
                ) from error
            if not is_out_of_memory(error):
                raise
        # Outside the clause: the error holds the frames that hold the images.
        raise BatchTooLargeError(part.name, batch_size)

    def _run(self, part: Part, loaded: Iterator[Batch]) -> dict[str, Any]:
        score = part.score()
        skipped: list[str] = []
        rights: list[torch.Tensor] = []
        images = 0
        # An attack and the decision under it are computed in float32: autocast would blur the gradients.
        context = nullcontext() if part.attack else autocast(self.config)
        batches = self._prepare(part, loaded, skipped)
        for logits, targets in predict(self._model, batches, self._device, context, self.config.run.channels_last):
            bad = int((~logits.isfinite().all(dim=1)).sum())
            if bad:
                raise DebiasError(
                    f'{part.name}: the logits of {bad} of {len(logits)} images are not finite (NaN or infinite); check '
                    'the weights, and measure without --amp and --model-dtype'
                )
            right = score.update(logits, targets)
            if right is not None:
                rights.append(right)
            images += len(logits)
            self.progress.advance(len(logits))
        right_images = torch.cat(rights).cpu().numpy() if rights else None
        return {'state': score.state(), 'images': images, 'skipped': skipped, 'right': right_images}

    def _prepare(
        self, part: Part, loaded: Iterator[Batch], skipped: list[str]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield normalised images and targets, attacked where the part wants it; adds to `skipped`."""
        for batch in loaded:
            self._report_failures(part, batch, skipped)
            if batch.pixels is None:
                continue
            images = batch.pixels.to(self._device, non_blocking=True).float().div(255)
            targets = part.targets[batch.indices].to(self._device)
            if part.attack is not None:
                generators = [_generator(self.config.run.seed, index) for index in batch.indices.tolist()]
                try:
                    images = part.attack(self._pixel_model, images, targets, generators)
                except DebiasError as error:
                    raise DebiasError(f'{part.name}: {error}') from error
            yield self._normalize(images), targets

    def _report_failures(self, part: Part, batch: Batch, skipped: list[str]) -> None:
        for failure in batch.failures:
            name = part.images.name(failure.index)
            if failure.fatal:
                raise DebiasError(f'{part.name}: {name} {failure.reason}')
            if self.config.suite.on_error == 'stop':
                raise DebiasError(
                    f'{part.name}: unreadable image {name} ({failure.reason}); mend it, or give --on-error skip to '
                    'leave such images out and name them in the results'
                )
            _logger.info(f'{part.name}: skipped unreadable image {name} ({failure.reason}).')
            skipped.append(name)


def _generator(seed: int, index: int) -> torch.Generator:
    """Return the random numbers of an image: in whatever batch and process it comes, and for nearby seeds others."""
    return torch.Generator().manual_seed((1_000_003 * seed + index) % 2**32)  # torch takes 32 bits of a seed.


class _Progress:
    """Lines of the log that say how far the run is, and how long it will take."""

    def __init__(self, tasks: Sequence[Task], log_freq: int) -> None:
        self._total = sum(len(task.part.images) * task.part.cost for task in tasks)
        self._numbers = {task.part.name: number for number, task in enumerate(tasks, start=1)}
        self._log_freq = log_freq
        self._done = 0.0
        self._start = time.monotonic()

    def begin(self, part: Part, share: int) -> None:
        """Start a part of which this process measures a number of images, or start it again."""
        self._part, self._share = part, share
        self._images, self._batches = 0, 0

    def advance(self, images: int) -> None:
        """Count a batch."""
        self._images += images
        self._batches += 1
        if self._log_freq and self._batches % self._log_freq == 0 and self._images < self._share:
            self._log(round(self._images * len(self._part.images) / self._share))

    def end(self) -> None:
        """Count the part as done by all processes."""
        self._log(len(self._part.images))
        self._done += len(self._part.images) * self._part.cost

    def _log(self, images: int) -> None:
        part = self._part
        done = self._done + images * part.cost
        left = (self._total - done) * (time.monotonic() - self._start) / done
        _logger.info(
            f'[{self._numbers[part.name]}/{len(self._numbers)}] {part.name}: {images:,} of {len(part.images):,} '
            f'images, {timedelta(seconds=round(left))} left'
        )
