"""Corrupts images in a process pool."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ..corruptions import corrupt
from ..files import atomic_path
from ..metrics import SEVERITIES
from ..progress import Progress
from .config import CommonConfig
from .source import Source, generator_for, read_square

QUALITY = 85
"""Of the JPEG files, as in ImageNet-C."""


@dataclass(frozen=True)
class _Job:
    """An image and the corruptions to make of it."""

    root: Path
    image: str
    output: Path
    corruptions: tuple[str, ...]
    common: CommonConfig

    def missing(self) -> Iterator[tuple[str, int, Path]]:
        name = PurePosixPath(self.image).with_suffix('.JPEG')
        for corruption in self.corruptions:
            for severity in SEVERITIES:
                target = self.output / corruption / str(severity) / name
                if not target.exists():
                    yield corruption, severity, target


def write_corrupted(source: Source, corruptions: Sequence[str], common: CommonConfig, output: Path) -> None:
    """Write `<corruption>/<severity>/<class>/<name>.JPEG` for all images where `output` does not have them yet.

    The random numbers of a file depend on the seed, corruption, severity and the image's path alone.
    """
    jobs = [_Job(source.root, image, output, tuple(corruptions), common) for image in source.names]
    jobs = [job for job in jobs if any(job.missing())]
    progress = Progress(len(jobs))
    workers = min(common.workers, len(jobs))
    if workers <= 1:
        for job in jobs:
            _run(job)
            progress.add(1)
        return
    # Fresh processes: forking one that torch has given threads may hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context('spawn')) as pool:
        try:
            for future in as_completed([pool.submit(_run, job) for job in jobs]):
                future.result()
                progress.add(1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run(job: _Job) -> None:
    common = job.common
    image = np.array(read_square(job.root / job.image, common.resize, common.img_size))
    for corruption, severity, target in job.missing():
        rng = generator_for(common.seed, corruption, severity, job.image)
        picture = Image.fromarray(corrupt(image, corruption, severity, rng))
        with atomic_path(target) as temporary:
            picture.save(temporary, format='JPEG', quality=QUALITY, optimize=True)
