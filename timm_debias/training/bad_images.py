"""Images that cannot be read in training: an error, left out of the batch, or replaced by others (`--on-bad-image`).

What happens is a function of the run's seed, the epoch, the image and the files, so that a resumed run and runs with
other numbers of workers or processes see the same images.
"""

import csv
import io
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..data.reading import Failure, image_name, is_bad_image, label_error
from ..errors import DebiasError, reason
from ..escaping import csv_cell
from ..files import atomic_path
from .randomness import derive_seed, seed_host
from .sampler import SampleKey

_logger = logging.getLogger(__name__)

MAX_REPLACEMENTS = 10
"""Images that are tried in the place of a bad one."""

MIN_LEFT = 2
"""Images that `skip` must leave in a batch of training: texture partners and batch norm need two."""


ADVICE = (
    'mend or remove it, or give --on-bad-image skip to leave such images out, or replace to train on others in their '
    'place'
)


BAD_IMAGES = 'bad_images.csv'
"""File in the folder of a run that names them."""

_COLUMNS = ('epoch', 'split', 'file', 'reason', 'replaced_by')


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read."""

    failure: Failure
    name: str
    replaced_by: str = ''

    def row(self) -> list[str]:
        """Return file, reason and the file in its place, for checkpoints and the log."""
        return [self.name, self.failure.reason, self.replaced_by]


@dataclass(frozen=True)
class Report:
    """What a batch is made of.

    Attributes:
        keys: Of the samples that are in it.
        bad: The images that could not be read.
        gaps: Where in the batch those would stand that nothing has replaced.
        names: Paths of the images in it.
    """

    keys: tuple[SampleKey, ...] = ()
    bad: tuple[BadImage, ...] = ()
    gaps: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


Item = tuple[SampleKey, Any, tuple[BadImage, ...]]
"""A key, its sample or None, and the image that could not be read."""


class Samples:
    """Reads the samples of a data set, each with generators seeded for it, as `--on-bad-image` says.

    Args:
        dataset: Gives (image, target) for a number, or for (number, size).
        seed: Seed of the run.
        policy: `error`, `skip` or `replace`.
        num_classes: Class indices must lie below; unchecked where None.
    """

    def __init__(self, dataset: Any, seed: int, policy: str = 'error', num_classes: int | None = None) -> None:
        self.dataset = dataset
        self.seed = seed
        self.policy = policy
        self.num_classes = num_classes

    def read(self, key: SampleKey, size: tuple[int, ...] = ()) -> Item:
        """Return the key of the image that was read, its sample, and the image that could not be.

        Args:
            key: What is wanted.
            size: The number of the size, where a batch sampler has a schedule of sizes.

        Returns:
            The sample is None where there is none.
        """
        sample = self._sample(key, size)
        if not isinstance(sample, Failure):
            return key, sample, ()
        replacement, other = key, None
        if self.policy == 'replace' and not sample.fatal:
            replacement, other = self._replacement(key, size)
        found = other is not None
        replaced_by = image_name(self.dataset, replacement.image) if found else ''
        name = image_name(self.dataset, key.image)
        return replacement, other, (BadImage(sample, name, replaced_by),)

    def _replacement(self, key: SampleKey, size: tuple[int, ...]) -> tuple[SampleKey, Any]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, key.epoch, key.position, 'replacement'))
        for image in torch.randint(len(self.dataset), (MAX_REPLACEMENTS,), generator=generator).tolist():
            replacement = key._replace(image=image)
            sample = self._sample(replacement, size)
            if not isinstance(sample, Failure):
                return replacement, sample
        return key, None

    def _sample(self, key: SampleKey, size: tuple[int, ...]) -> Any:
        seed_host(derive_seed(self.seed, key.epoch, key.position))
        try:
            sample = self.dataset[(key.image, *size) if size else key.image]
        except Exception as error:
            if not is_bad_image(error):
                raise
            return Failure(key.image, reason(error))
        wrong = label_error(sample[1], self.num_classes)
        return sample if wrong is None else Failure(key.image, wrong, fatal=True)


def report_of(items: Sequence[Item], dataset: Any) -> Report:
    """Return what the samples of a batch say of it; `dataset` knows their names, if it is not None."""
    keys = tuple(key for key, sample, _ in items if sample is not None)
    names = tuple(image_name(dataset, key.image) for key in keys) if dataset is not None else ()
    gaps = tuple(place for place, (_, sample, _) in enumerate(items) if sample is None)
    return Report(keys, tuple(bad for _, _, found in items for bad in found), gaps, names)


def refusal(report: Report, policy: str, least: int = MIN_LEFT, advice: str = ADVICE) -> str | None:
    """Return why a batch of which `least` images must be left cannot be used, None where it can."""
    for bad in report.bad:
        what = f'{bad.name} ({bad.failure.reason})'
        if bad.failure.fatal:
            return f'{what}: mend the data, or --num-classes and --class-map'
        if policy == 'error':
            return f'unreadable image {what}: {advice}'
        if policy == 'replace' and not bad.replaced_by:
            return f'unreadable image {what}, and so are {MAX_REPLACEMENTS} others that were drawn in its place'
    if report.bad and policy == 'skip' and len(report.keys) < least:
        return (
            f'{len(report.bad)} of {len(report.bad) + len(report.keys)} images of a batch are unreadable, the first '
            f'{report.bad[0].name} ({report.bad[0].failure.reason}), and {least} at least must be left: mend them'
        )
    return None


def update_bad_images(path: Path, epoch: int, split: str, rows: list[list[Any]]) -> None:
    """Write the bad images of a split in an epoch; rows of it that were there, and of later epochs, go.

    The file is replaced as a whole, so that a crash leaves the old one; it is made with its first row.

    Args:
        path: A CSV file.
        epoch: Number of the epoch.
        split: `train` or `validation`.
        rows: Epoch, split, file, reason and the file in its place; names that are not UTF-8 are written as bytes, and
            an apostrophe goes before one that a spreadsheet would take for a formula.
    """
    kept: list[list[Any]] = []
    if path.exists():
        with path.open(newline='', encoding='utf-8', errors='surrogateescape') as file:
            before = [row for row in list(csv.reader(file))[1:] if len(row) == len(_COLUMNS) and row[0].isdigit()]
        kept = [row for row in before if int(row[0]) < epoch or (int(row[0]) == epoch and row[1] < split)]
    elif not rows:
        return
    text = io.StringIO(newline='')
    writer = csv.writer(text, lineterminator='\n')
    writer.writerows([_COLUMNS, *kept, *([csv_cell(value) for value in row] for row in sorted(rows))])
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.getvalue().encode('utf-8', 'surrogateescape'))


class Delivered:
    """The batches of a loader, what is said of each taken off and kept for `report`.

    It stands between a DataLoader, whose batches end in their `Report`, and timm's prefetcher, which reads ahead.

    Args:
        loader: Gives (…, report).
        policy: `error`, `skip` or `replace`.
        least: Images that must be left in a batch.
        advice: What to do about a bad image that is an error.
    """

    def __init__(self, loader: Any, policy: str, least: int = MIN_LEFT, advice: str = ADVICE) -> None:
        self.loader = loader
        self.policy = policy
        self.least = least
        self.advice = advice
        self._reports: deque[Report] = deque()

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # What timm asks a DataLoader for: its data set, its sampler.

    def __iter__(self) -> Iterator[list[Any]]:
        """Yield the batches.

        Raises:
            DebiasError: the images of a batch cannot be used.
        """
        self._reports.clear()
        for *batch, report in self.loader:
            refused = refusal(report, self.policy, self.least, self.advice)
            if refused is not None:
                raise DebiasError(refused)
            for bad in report.bad:
                instead = f'{bad.replaced_by} in its place' if bad.replaced_by else 'left out'
                _logger.warning(f'Unreadable image {bad.name} ({bad.failure.reason}): {instead}.')
            self._reports.append(report)
            yield batch

    def report(self) -> Report:
        """Return what is said of the next batch that a caller gets; to be called once for each."""
        return self._reports.popleft()
