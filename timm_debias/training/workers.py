"""The data workers: which image each of them is reading, said when one dies or does not come back."""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch.utils.data import get_worker_info

from ..errors import DebiasError
from .randomness import kept_random_state

_logger = logging.getLogger(__name__)

HANGING_SECONDS = 120.0
"""Time after which an image that is still being read is named in the log."""

_DEAD = re.compile(r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(.*)', re.DOTALL)
_PID, _IMAGE, _SINCE = range(3)
_NOTHING = -1.0


def host_generators() -> AbstractContextManager:
    """Keep the generators of the training process; those of a worker serve nothing but samples."""
    return kept_random_state() if get_worker_info() is None else nullcontext()


class Workers:
    """Which image each data worker reads, in memory that they share with the training process.

    Args:
        count: Number of workers; 0 where the training process reads.
        name: Returns the path of an image for its number.
    """

    def __init__(self, count: int, name: Callable[[int], str]) -> None:
        self.name = name
        # Numbers of images are below 2⁵³, so that float64 has them all.
        self._table = torch.full((max(count, 1), 3), _NOTHING, dtype=torch.float64).share_memory_()

    @contextmanager
    def reading(self, image: int) -> Iterator[None]:
        """Note that this worker reads an image inside the `with` block."""
        info = get_worker_info()
        row = self._table[info.id if info is not None else 0]
        row[_PID], row[_SINCE] = os.getpid(), time.monotonic()
        row[_IMAGE] = image
        yield
        # Not where the block raises: the error ends the worker.
        row[_IMAGE] = _NOTHING

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Name the image of a worker that dies or hangs while the `with` block takes batches.

        Raises:
            DebiasError: a worker has died.
        """
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(done,), daemon=True)
        watch.start()
        try:
            yield
        except RuntimeError as error:
            dead = _DEAD.search(str(error))
            if dead is None:
                raise
            raise DebiasError(self._obituary([int(pid) for pid in dead[1].split(',')], dead[2])) from error
        finally:
            done.set()
            watch.join()

    def _obituary(self, pids: list[int], how: str) -> str:
        images = [int(row[_IMAGE]) for row in self._table.tolist() if row[_PID] in pids and row[_IMAGE] != _NOTHING]
        held = ', '.join(self.name(image) for image in images) or 'no image'
        return (
            f'data worker {", ".join(map(str, pids))} died while reading {held} ({" ".join(how.split()).strip(" .")}). '
            'It may have wanted more memory than there is: try fewer of them (-j), and look at that image'
        )

    def _watch(self, done: threading.Event) -> None:
        named: set[tuple[float, float]] = set()
        while not done.wait(HANGING_SECONDS / 4):
            for number, (_, image, since) in enumerate(self._table.tolist()):
                seconds = time.monotonic() - since
                if image == _NOTHING or seconds < HANGING_SECONDS or (image, since) in named:
                    continue
                named.add((image, since))
                _logger.warning(f'Data worker {number} has been reading {self.name(int(image))} for {seconds:.0f} s.')
