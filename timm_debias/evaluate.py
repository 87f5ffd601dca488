"""Runs a model over a data set."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from timm.task import ClassificationEvaluator, evaluation_sample_limit
from torch import nn

from .metrics import shape_bias

_logger = logging.getLogger(__name__)

Observer = Callable[[torch.Tensor, torch.Tensor], None]
"""Called with logits [B, classes] and targets [B]."""


def evaluate(
    model: nn.Module,
    loader: Any,
    device: torch.device,
    autocast: AbstractContextManager | None = None,
    channels_last: bool = False,
    distributed: bool = False,
    log_interval: int = 0,
    name: str = 'Test',
    evaluator: ClassificationEvaluator | None = None,
    columns: torch.Tensor | None = None,
    observers: Sequence[Observer] = (),
) -> 'OrderedDict[str, float]':
    """Return `loss`, `top1` and `top5` (percent) of `model` over `loader`, each image counted once.

    Args:
        model: Classifier; put in eval mode.
        loader: Yields normalised images [B, C, H, W] and class indices [B].
        device: Where the model is.
        autocast: Context of each forward.
        channels_last: Give the model channels-last images.
        distributed: Sum over the processes of the run.
        log_interval: Batches between two lines of the log; 0 for none.
        name: What the lines of the log start with.
        evaluator: A fresh one of timm that measures something else.
        columns: Indices of the logits that count, all where None.
        observers: Called with the logits and targets of each batch.
    """
    if evaluator is None:
        evaluator = ClassificationEvaluator(device, max_samples=evaluation_sample_limit(loader))
    start = time.monotonic()
    for batch, (logits, target) in enumerate(predict(model, loader, device, autocast, channels_last)):
        if columns is not None:
            logits = logits[:, columns]
        evaluator.update(logits, target)
        for observer in observers:
            observer(logits, target)
        last = batch == len(loader) - 1
        if log_interval and (batch % log_interval == 0 or last):
            so_far = evaluator.summary()
            rate = evaluator.num_samples / (time.monotonic() - start)
            accuracies = f'Acc@1: {so_far["top1"]:>7.3f}  Acc@5: {so_far["top5"]:>7.3f}  ' if 'top1' in so_far else ''
            _logger.info(
                f'{name}: [{batch:>4d}/{len(loader) - 1}]  Loss: {so_far["loss"]:>6.3f}  {accuracies}'
                f'{rate:>7.1f} images/s'
            )
    return evaluator.compute(distributed=distributed)


def evaluate_conflict(
    model: nn.Module,
    loader: Any,
    device: torch.device,
    autocast: AbstractContextManager | None = None,
    channels_last: bool = False,
    distributed: bool = False,
) -> 'OrderedDict[str, float | None]':
    """Return how `model` decides images whose shape is of one class and whose texture is of another.

    Args: as in `evaluate`, but `loader` yields targets [B, 2]: the classes of shape and texture.

    Returns:
        `conflict_shape` and `conflict_texture`, percent of all images, and `shape_bias`, percent of those decided for
        either, None where there are none.
    """
    counts = torch.zeros(3, dtype=torch.int64, device=device)
    limit = evaluation_sample_limit(loader)
    for logits, target in predict(model, loader, device, autocast, channels_last):
        kept = len(logits) if limit is None else max(0, min(len(logits), limit - int(counts[2])))
        decided = logits[:kept].argmax(dim=-1, keepdim=True) == target[:kept]
        counts += torch.cat([decided.sum(dim=0), torch.tensor([kept], device=device)])
    if distributed:
        dist.all_reduce(counts)
    n_shape, n_texture, total = counts.tolist()
    bias = shape_bias(n_shape, n_texture)
    return OrderedDict(
        conflict_shape=100 * n_shape / max(total, 1),
        conflict_texture=100 * n_texture / max(total, 1),
        shape_bias=None if bias is None else 100 * bias,
    )


@torch.no_grad()  # Not inference mode: some models keep tensors of a forward, which a later backward may need.
def predict(
    model: nn.Module,
    loader: Any,
    device: torch.device,
    autocast: AbstractContextManager | None = None,
    channels_last: bool = False,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield logits [B, classes] and targets for each batch of `loader`, the model in eval mode."""
    model.eval()
    dtype = next(model.parameters()).dtype
    for images, target in loader:
        target = target.to(device)
        if not isinstance(images, dict):  # Those of a NaFlex loader are where they belong.
            images = images.to(device=device, dtype=dtype)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast or nullcontext():
            logits = model(images)
        yield logits[0] if isinstance(logits, (tuple, list)) else logits, target
