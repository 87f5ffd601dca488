"""Measures parts: images from the workers through the model into the score of each part."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from ..errors import DebiasError
from ..normalize import Normalize
from .attacks import PixelModel
from .benchmarks import Part
from .bits import pack
from .config import ValidateConfig
from .evaluate import predict
from .loading import AsPublished, Batch, PartBatches, Transform
from .model import autocast

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A part to measure, and how its images reach the model."""

    part: Part
    transform: Transform


def measure(
    config: ValidateConfig, model: nn.Module, input_config: dict[str, Any], tasks: Sequence[Task]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the result of each part as soon as it is measured.

    Args:
        config: The flags.
        model: Where and as it is to run; put in eval mode.
        input_config: timm's data configuration of the model.
        tasks: What to measure.

    Yields:
        Name, and `state` (of the part's score), `images` (number counted), `skipped` (names of unreadable ones) and
        `right` (which of the counted images are right, in their order, packed by `bits.pack`; None where the score does
        not tell).

    Raises:
        DebiasError: a model that does not take the images, an image that cannot be used, or logits that are not finite.
    """
    runner = _Runner(config, model, input_config, tasks)
    own = tuple(input_config['input_size'][-2:])
    for size in {(task.transform.size,) * 2 if isinstance(task.transform, AsPublished) else own for task in tasks}:
        runner.check_size(size, own)
    run = config.run
    batches = PartBatches(
        [(task.part.images, task.transform) for task in tasks], run.batch_size, run.workers, run.pin_mem
    )
    for task, loaded in zip(tasks, batches, strict=True):
        yield task.part.name, runner.run(task.part, loaded)


class _Runner:
    """The model, its normalisation, and how far the run is."""

    def __init__(
        self, config: ValidateConfig, model: nn.Module, input_config: dict[str, Any], tasks: Sequence[Task]
    ) -> None:
        self._config = config
        self._device = torch.device(config.run.device)
        self._model = model
        mean, std = input_config['mean'], input_config['std']
        self._normalize = Normalize(mean, std).to(self._device)
        self._pixel_model = PixelModel(model, mean, std).to(self._device)
        self._progress = _Progress(tasks, config.run.log_freq)

    @torch.inference_mode()
    def check_size(self, size: tuple[int, int], own: tuple[int, int]) -> None:
        """Raise `DebiasError` where the model does not take images of a size, (height, width).

        Args:
            size: The size.
            own: The size of the model's own transform, which the user may change.
        """
        self._model.eval()
        images = torch.zeros(1, 3, *size, device=self._device, dtype=next(self._model.parameters()).dtype)
        try:
            self._model(images)
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = ' '.join(str(error).split())[:200]
            published = '' if size == own else ', the size of a benchmark that must not be resized'
            raise DebiasError(
                f'{self._config.model.model} does not take {size[1]}×{size[0]} images{published} ({reason}); see '
                '--img-size and --model-kwargs img_size=N'
            ) from error

    def run(self, part: Part, loaded: Iterator[Batch]) -> dict[str, Any]:
        """Return the result of a part."""
        score = part.score()
        skipped: list[str] = []
        rights: list[torch.Tensor] = []
        images = 0
        # An attack and the decision under it are computed in float32: autocast would blur the gradients.
        context = nullcontext() if part.attack else autocast(self._config)
        batches = self._prepare(part, loaded, skipped)
        for logits, targets in predict(self._model, batches, self._device, context, self._config.run.channels_last):
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
            self._progress.advance(part, len(logits))
        if not images:
            raise DebiasError(f'{part.name}: none of its {len(part.images)} images can be read')
        packed = pack(torch.cat(rights).cpu().numpy()) if rights else None
        return {'state': score.state(), 'images': images, 'skipped': skipped, 'right': packed}

    def _prepare(
        self, part: Part, loaded: Iterator[Batch], skipped: list[str]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield normalised images and targets, attacked where the part wants it; adds to `skipped`."""
        generator = torch.Generator().manual_seed(self._config.run.seed)
        for batch in loaded:
            self._report_failures(part, batch, skipped)
            if batch.pixels is None:
                continue
            images = batch.pixels.to(self._device, non_blocking=True).float().div(255)
            targets = part.targets[batch.indices].to(self._device)
            if part.attack is not None:
                try:
                    images = part.attack(self._pixel_model, images, targets, generator)
                except DebiasError as error:
                    raise DebiasError(f'{part.name}: {error}') from error
            yield self._normalize(images), targets

    def _report_failures(self, part: Part, batch: Batch, skipped: list[str]) -> None:
        for failure in batch.failures:
            name = part.images.name(failure.index)
            if failure.wrong_size:
                raise DebiasError(f'{part.name}: {name} {failure.reason}')
            if self._config.suite.on_error == 'stop':
                raise DebiasError(
                    f'{part.name}: unreadable image {name} ({failure.reason}); mend it, or give --on-error skip to '
                    'leave such images out and name them in the results'
                )
            _logger.info(f'{part.name}: skipped unreadable image {name} ({failure.reason}).')
            skipped.append(name)


class _Progress:
    """Lines of the log that say how far the run is, and how long it will take."""

    def __init__(self, tasks: Sequence[Task], log_freq: int) -> None:
        self._total = sum(len(task.part.images) * task.part.cost for task in tasks)
        self._lengths = {task.part.name: len(task.part.images) for task in tasks}
        self._numbers = {task.part.name: number for number, task in enumerate(tasks, start=1)}
        self._log_freq = log_freq
        self._done = 0.0
        self._start = time.monotonic()
        self._part, self._images, self._batches = '', 0, 0

    def advance(self, part: Part, images: int) -> None:
        """Count a batch of a part."""
        if part.name != self._part:
            self._part, self._images, self._batches = part.name, 0, 0
        self._images += images
        self._batches += 1
        self._done += images * part.cost
        last = self._images == self._lengths[part.name]
        if last or (self._log_freq and self._batches % self._log_freq == 0):
            left = (self._total - self._done) * (time.monotonic() - self._start) / self._done
            _logger.info(
                f'[{self._numbers[part.name]}/{len(self._numbers)}] {part.name}: {self._images:,} of '
                f'{self._lengths[part.name]:,} images, {timedelta(seconds=round(left))} left'
            )
