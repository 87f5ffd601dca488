"""Validation images: those that cannot be read are an error, or left out of the metrics and counted."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from timm.task import ClassificationEvaluator, evaluation_sample_limit
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..data.reading import image_name
from .bad_images import ADVICE, BadImage, Delivered, Item, Report, Samples, report_of
from .sampler import SampleKey
from .signals import init_worker
from .workers import Workers, host_generators


class EvalLoader:
    """timm's loader for validation, which says what it cannot read instead of showing another image in its place.

    Args:
        build: Makes timm's loader of a data set.
        dataset: timm's data set. A stream is left to its reader.
        workers: Data workers.
        policy: `error`, or `skip` to leave out images that cannot be read.
        num_classes: Class indices must lie below; unchecked where None.
        advice: What to do about a bad image that is an error.

    Attributes:
        dataset: timm's data set.
        limit: Images of this process that count; those after them fill up the last batch. None where all do.
        bad: Images that could not be read since the last `counted_by`.
        through: What the batches pass through on their way; it may stop them.
    """

    def __init__(
        self,
        build: Callable[[Any], Any],
        dataset: Any,
        workers: int,
        policy: str = 'error',
        num_classes: int | None = None,
        advice: str = ADVICE,
    ) -> None:
        self.dataset = dataset
        self.bad: list[BadImage] = []
        self.through: Callable[[Iterable[Any]], Iterator[Any]] = iter
        self._evaluator: ClassificationEvaluator | None = None
        self._samples = 0
        self._delivered: Delivered | None = None
        self.workers = Workers(workers, partial(image_name, dataset))
        is_stream = isinstance(dataset, IterableDataset)
        if not is_stream:
            dataset = _EvalSamples(Samples(dataset, 0, policy, num_classes), self.workers)
        self.loader = build(dataset)
        has_prefetcher = not isinstance(self.loader, DataLoader)
        inner = self.loader.loader if has_prefetcher else self.loader
        inner.worker_init_fn = init_worker
        self.limit = evaluation_sample_limit(self.loader)
        if is_stream:
            return
        inner.collate_fn = _EvalCollate(inner.collate_fn, dataset.samples.dataset)
        self._delivered = Delivered(inner, policy, least=1, advice=advice)
        if has_prefetcher:
            self.loader.loader = self._delivered
        else:
            self.loader = self._delivered

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield images and targets, as timm's loader gives them.

        Raises:
            DebiasError: an image that cannot be read, a label of no class, or a data worker that died.
        """
        with self.workers.watched():
            for batch in self.through(self.loader):
                if self._delivered is not None:
                    self._note(self._delivered.report())
                yield batch

    @property
    def sampler(self) -> Any:
        """The sampler, which timm asks for `limit`."""
        return self.loader.sampler

    @contextmanager
    def counted_by(self, evaluator: ClassificationEvaluator) -> Iterator[None]:
        """Let an evaluator, which stops at `limit`, know of images that are left out inside the `with` block."""
        self.bad, self._samples, self._evaluator = [], 0, evaluator
        try:
            yield
        finally:
            self._evaluator = None

    def _note(self, report: Report) -> None:
        start = self._samples
        self._samples += len(report.keys) + len(report.gaps)
        for bad, gap in zip(report.bad, report.gaps, strict=True):
            if self.limit is not None and start + gap >= self.limit:
                continue
            self.bad.append(bad)
            if self._evaluator is not None and self._evaluator.max_samples is not None:
                self._evaluator.max_samples -= 1


class _EvalSamples(Dataset):
    """Gives what `Samples.read` returns, for the numbers of a sampler."""

    def __init__(self, samples: Samples, workers: Workers) -> None:
        self.samples = samples
        self.workers = workers

    @property
    def transform(self) -> Any:
        """Transform of the images, which timm's loaders set."""
        return self.samples.dataset.transform

    @transform.setter
    def transform(self, transform: Any) -> None:
        self.samples.dataset.transform = transform

    def __len__(self) -> int:
        return len(self.samples.dataset)

    def __getitem__(self, index: int) -> Item:
        with host_generators(), self.workers.reading(index):
            return self.samples.read(SampleKey(index, 0, index))


class _EvalCollate:
    """Collates images, targets and the batch's `Report`."""

    def __init__(self, collate: Any, dataset: Any) -> None:
        self.collate = collate
        self.dataset = dataset

    def __call__(self, items: Sequence[Item]) -> tuple[Any, Any, Report]:
        samples = [sample for _, sample, _ in items if sample is not None]
        images, targets = self.collate(samples) if samples else (None, None)
        return images, targets, report_of(items, self.dataset)
