"""metrics.jsonl: a line of JSON for each update and for each epoch, that a killed and resumed run goes on with."""

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DebiasError
from .checkpoint import unwritable

_logger = logging.getLogger(__name__)


class MetricsFile:
    """Appends rows to a file, whole lines at a time.

    A row of an update has `epoch` and `update`, one of an epoch has `epoch` alone. A process that is killed leaves
    whole lines and at most one without its end, the last. What a run does again after its checkpoint is cut before.

    Args:
        path: The file; one that is there is gone on with.
        epoch: Epoch that the run goes on in.
        update: Update of that epoch that it goes on with.

    Raises:
        DebiasError: the file cannot be read or written, or is a link, through which another would be written.
    """

    def __init__(self, path: Path, epoch: int = 0, update: int = 0) -> None:
        self.path = path
        if path.is_symlink():
            raise DebiasError(f'{path} is a link, which rows would be appended through; remove it')
        try:
            if path.exists():
                self._cut((epoch, update))
        except OSError as error:
            raise unwritable(path, error) from error

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; they are on the disk when this returns. Numbers that are not finite become null.

        Raises:
            DebiasError: the file cannot be written.
        """
        lines = [json.dumps({name: _plain(value) for name, value in row.items()}) for row in rows]
        try:
            with open(self.path, 'ab') as file:
                file.write(''.join(f'{line}\n' for line in lines).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _cut(self, position: tuple[int, int]) -> None:
        """Drop the rows from a position (epoch, update) on, and a last line that has no end."""
        kept = 0
        with open(self.path, 'r+b') as file:
            for line in file:
                if not line.endswith(b'\n') or not _is_before(line, position):
                    break
                kept += len(line)
            file.truncate(kept)
            file.flush()
            os.fsync(file.fileno())


def _is_before(line: bytes, position: tuple[int, int]) -> bool:
    try:
        row = json.loads(line)
        place = int(row['epoch']), int(row.get('update', -1))
    except (ValueError, TypeError, KeyError, AttributeError):
        _logger.warning(f'metrics.jsonl: a line that is no row of it, and what follows, is dropped: {line[:80]!r}')
        return False
    return place < position if 'update' in row else place[0] < position[0]


def _plain(value: Any) -> Any:
    """Return a value that JSON has: floats with the 7 digits of float32, and None where they are not finite."""
    if not isinstance(value, float):
        return value
    return float(f'{value:.7g}') if math.isfinite(value) else None
