"""Scores: what is counted of the logits of one part of a benchmark.

A score takes logits and targets batch by batch; its state is plain JSON, so that a part is measured once, stored, and
combined with the others later.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

import torch

from ..metrics import wilson_interval

State = dict[str, Any]


class Score(Protocol):
    """What every score offers."""

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
        """Count a batch: logits [B, classes] and targets [B] or [B, K].

        Returns:
            Which images are right, bool [B], for paired tests; None where no image is right or wrong by itself.
        """

    def state(self) -> State:
        """Return what was counted, as JSON values."""

    @staticmethod
    def merge(states: Sequence[State]) -> State:
        """Return the state of the images of several scores together, in that order."""


class TopK:
    """Counts the images whose class is the first, or among the first five, of the model's ranking.

    Targets are class indices [B], or [B, K] where any of up to K classes is right, padded with −1.
    State: `images`, `top1` and `top5`, numbers of images.
    """

    def __init__(self) -> None:
        self._counts: torch.Tensor | int = 0

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Count a batch; an image is right by its first class."""
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
        right = (ranked[:, :, None] == targets.reshape(len(targets), 1, -1)).any(dim=2)
        total = right.new_tensor(len(right), dtype=torch.int64)
        self._counts = self._counts + torch.stack([total, right[:, 0].sum(), right.any(dim=1).sum()])
        return right[:, 0]

    def state(self) -> State:
        """Return the numbers of images."""
        images, top1, top5 = _numbers(self._counts, 3)
        return {'images': images, 'top1': top1, 'top5': top5}

    @staticmethod
    def merge(states: Sequence[State]) -> State:
        """Return the state of the images of several scores together."""
        return _add(states)


class ClassAccuracy:
    """Counts the images of each class, and those that are classified right.

    Args:
        classes: Names of the classes of the model, in their order.

    Targets are class indices [B]. State: `names` of the classes, and for each the numbers of `images`, and of those
    that are `right`.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = list(classes)
        self._counts = torch.zeros(2, len(classes), dtype=torch.int64)

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Count a batch."""
        right = logits.argmax(dim=1) == targets
        for row, counted in zip(self._counts, (torch.ones_like(right), right), strict=True):
            row.index_add_(0, targets.cpu(), counted.long().cpu())
        return right

    def state(self) -> State:
        """Return names and the numbers of images, by class."""
        images, right = self._counts.tolist()
        return {'names': self._classes, 'images': images, 'right': right}

    @staticmethod
    def merge(states: Sequence[State]) -> State:
        """Return the state of the images of several scores together."""
        return _add_by_place(states)


class SubsetAccuracy:
    """Decides among the classes of a subset, and keeps the confidence of each decision for calibration.

    Args:
        indices: The subset, as indices among the classes of the model.

    Targets are class indices [B] of the model, all in the subset. State: `images`; `right`, decided among the subset;
    `right_of_all`, decided among all classes; `confidence`, the largest softmax probability over the subset, and
    `correct`, 0 or 1, one value an image.
    """

    def __init__(self, indices: Sequence[int]) -> None:
        self._indices = torch.tensor(indices)
        self._right_of_all = 0
        self._confidence: list[float] = []
        self._correct: list[int] = []

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Count a batch; an image is right when decided among the subset."""
        indices = self._indices.to(logits.device)
        confidence, decision = logits[:, indices].float().softmax(dim=1).max(dim=1)
        right = indices[decision] == targets
        self._confidence += confidence.tolist()
        self._correct += right.int().tolist()
        self._right_of_all += int((logits.argmax(dim=1) == targets).sum())
        return right

    def state(self) -> State:
        """Return counts, confidences and correctness."""
        return {
            'images': len(self._correct),
            'right': sum(self._correct),
            'right_of_all': self._right_of_all,
            'confidence': self._confidence,
            'correct': self._correct,
        }

    @staticmethod
    def merge(states: Sequence[State]) -> State:
        """Return the state of the images of several scores together, in that order."""
        return _add(states)


class SubsetConfidence:
    """Keeps the largest softmax probability over a subset of the classes, whatever the targets.

    Args:
        indices: The subset, as indices among the classes of the model.

    State: `images`, and `confidence`, one value an image.
    """

    def __init__(self, indices: Sequence[int]) -> None:
        self._indices = torch.tensor(indices)
        self._confidence: list[float] = []

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Count a batch."""
        del targets
        self._confidence += logits[:, self._indices.to(logits.device)].float().softmax(dim=1).amax(dim=1).tolist()

    def state(self) -> State:
        """Return the confidences."""
        return {'images': len(self._confidence), 'confidence': self._confidence}

    @staticmethod
    def merge(states: Sequence[State]) -> State:
        """Return the state of the images of several scores together, in that order."""
        return _add(states)


class ConflictDecisions:
    """Counts what decides images whose shape is of one category and whose texture is of another.

    The decision is the category with the largest arithmetic mean of the softmax probabilities of its classes.

    Args:
        groups: For each category, its classes as indices among the classes of the model.
        names: Names of the categories, where the benchmark itself does not know them.

    Targets are [B, 2], the categories of shape and texture. State: for each category of shape, the numbers of `images`,
    and of those decided by `shape` and by `texture`; and the `names`, where given.
    """

    def __init__(self, groups: Sequence[Sequence[int]], names: Sequence[str] = ()) -> None:
        self._groups = [list(group) for group in groups]
        self._names = list(names)
        self._counts = torch.zeros(3, len(groups), dtype=torch.int64)

    def update(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Count a batch; an image is right when its shape decides."""
        probabilities = logits.float().softmax(dim=1)
        means = torch.stack([probabilities[:, group].mean(dim=1) for group in self._groups], dim=1)
        decided = (means.argmax(dim=1, keepdim=True) == targets).cpu()
        shapes = targets[:, 0].cpu()
        for row, counted in zip(self._counts, (torch.ones_like(shapes), *decided.T.long()), strict=True):
            row.index_add_(0, shapes, counted)
        return decided[:, 0]

    def state(self) -> State:
        """Return the numbers of images, by category of shape."""
        images, shape, texture = self._counts.tolist()
        named = {'names': self._names} if self._names else {}
        return {**named, 'images': images, 'shape': shape, 'texture': texture}

    @staticmethod
    def merge(states: Sequence[State]) -> State:
        """Return the state of the images of several scores together."""
        return _add_by_place(states)


def share(name: str, right: int, total: int) -> dict[str, Any]:
    """Return `name`, a share in percent, and `name_interval`, its Wilson 95 % interval [low, high] in percent."""
    low, high = wilson_interval(right, total)
    return {name: 100 * right / total, f'{name}_interval': [100 * low, 100 * high]}


def _add(states: Sequence[State]) -> State:
    """Return the sums of numbers, and the values of lists one after the other."""
    return {
        key: list(chain.from_iterable(column)) if isinstance(column[0], list) else sum(column)
        for key, column in _columns(states)
    }


def _add_by_place(states: Sequence[State]) -> State:
    """Return the sums of lists of numbers, place by place; the names of the places are the same in all."""
    return {
        key: column[0] if key == 'names' else [sum(counts) for counts in zip(*column, strict=True)]
        for key, column in _columns(states)
    }


def _columns(states: Sequence[State]) -> Iterator[tuple[str, list[Any]]]:
    return ((key, [state[key] for state in states]) for key in states[0])


def _numbers(counts: torch.Tensor | int, length: int) -> list[int]:
    return counts.tolist() if isinstance(counts, torch.Tensor) else [0] * length
