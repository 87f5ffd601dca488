"""A lock that ends with the processes that hold it, however they end."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import DebiasError


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[int | None]:
    """Hold a lock file for the block; yields its descriptor, or None where another process holds it.

    A child process that is given the descriptor holds the lock too: a run whose parent was killed stays locked until
    it has ended itself.

    Args:
        path: The file, made where missing.
        wait: Wait for the other process instead of yielding None.

    Raises:
        DebiasError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        yield None
    except OSError as error:
        reason = error.strerror or error
        raise DebiasError(
            f'{path} cannot be locked ({reason}); choose an --output whose file system has locks'
        ) from error
    else:
        yield descriptor
    finally:
        os.close(descriptor)
