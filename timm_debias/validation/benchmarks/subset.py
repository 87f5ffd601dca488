"""Reduced benchmarks: some of the images of a folder, the same of every folder."""

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import DebiasError
from .base import Setting, Subset
from .layout import Listing

_EXAMPLE = 'n01440764/ILSVRC2012_val_00000293.JPEG'
_ROBUSTBENCH = '2f1fd0aa050d2393d0d1ff5aa3da5cf25831254f1cb59266e3162a1e2c61adc8'
"""Of robustbench/helper_files/imagenet_test_image_ids.txt in RobustBench 1.1.1, see `_hash`."""


def parse_subset(text: str, seed: int) -> Subset | None:
    """Return what `--subset` says: a number of images to draw by `seed`, or a file that lists them; None for nothing.

    Raises:
        DebiasError: zero, a file that cannot be read, or a line of it that is no image.
    """
    if not text:
        return None
    if not text.isdecimal():
        files = _read_list(Path(text))
        digest = _hash(files)
        owner, column = ("RobustBench's ", 'robustbench') if digest == _ROBUSTBENCH else ('', 'list')
        words = f'{owner}list of {len(files):,}'
        return Subset(len(files), files, f'{column}{len(files)}', words, f'{words} images (SHA-256 {digest[:12]})')
    number = int(text)
    if number < 1:
        raise DebiasError(f'--subset is {number}; expected at least 1 image, or a file that lists them')
    return Subset(
        number, None, f'subset{number}', f'subset of {number:,}', f'{number:,} images, drawn with seed {seed}'
    )


class SubsetReader:
    """Keeps the same subset of each folder.

    Args:
        setting: Says which subset, if any.

    Raises:
        DebiasError: as in `parse_subset`.
    """

    def __init__(self, setting: Setting) -> None:
        self.subset = parse_subset(setting.suite.subset, setting.seed)
        self._seed = setting.seed
        self._chosen = None if self.subset is None else self.subset.files
        self._listed = self._chosen is not None
        self._allow_missing = setting.suite.allow_partial
        self.allow_partial = self._allow_missing or self._listed
        """Whether folders may lack images of the official benchmark: of a list, only its own have to be there."""

    @property
    def notes(self) -> list[str]:
        """What to add to the protocol."""
        if self.subset is None:
            return []
        return [f'reduced to {self.subset.origin}, the same of every folder, which is not the benchmark itself']

    def reduce(self, listing: Listing, what: str) -> Listing:
        """Return the images of a folder that are in the subset.

        Args:
            listing: All images of the folder.
            what: The benchmark, for errors.

        Raises:
            DebiasError: images of the subset that are missing.
        """
        if self.subset is None:
            return listing
        chosen = self._chosen or _draw(listing, self.subset.number, self._seed)
        self._chosen = chosen
        reduced = listing.keep(lambda file, _: file in chosen)
        missing = sorted(chosen.difference(file for file, _, _ in reduced.files))
        if missing and not (self._listed and self._allow_missing and reduced.files):
            raise DebiasError(
                f'{what}: {listing.root} lacks {len(missing):,} of the {len(chosen):,} images of --subset, such as '
                f'{missing[0]}'
            )
        return replace(reduced, partial=bool(missing)) if self._listed else reduced


def _draw(listing: Listing, number: int, seed: int) -> frozenset[str]:
    """Draw images by their paths, the same whatever order the disk gives them in."""
    if number > len(listing.files):
        raise DebiasError(f'--subset {number}: {listing.root} has {len(listing.files)} images')
    chosen = np.random.default_rng(seed).choice(len(listing.files), number, replace=False)
    return frozenset(listing.files[index][0] for index in chosen)


def _read_list(path: Path) -> frozenset[str]:
    expected = f'expected a number of images, or a text file with a path such as {_EXAMPLE} on each line'
    if not path.is_file():
        raise DebiasError(f"--subset '{path}': no such file; {expected}")
    try:
        lines = [line.strip() for line in path.read_text(encoding='utf-8').splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DebiasError(f"--subset '{path}': cannot be read ({error}); {expected}") from error
    for number, line in enumerate(lines, start=1):
        folder, _, name = line.partition('/')
        if line and (not folder or not name or '/' in name):
            raise DebiasError(f"--subset '{path}': line {number} is '{line[:80]}'; {expected}")
    counts = Counter(filter(None, lines))
    if not counts:
        raise DebiasError(f"--subset '{path}': no image is listed; {expected}")
    (often, times), *_ = counts.most_common(1)
    if times > 1:
        raise DebiasError(f"--subset '{path}': {often} is listed {times} times; each image counts once")
    return frozenset(counts)


def _hash(files: frozenset[str]) -> str:
    """Return a SHA-256 over the sorted paths."""
    return hashlib.sha256('\n'.join(sorted(files)).encode()).hexdigest()
