"""How far a long run is: the time left, and lines of the log that say it."""

import logging
import math
import time

_logger = logging.getLogger(__name__)

_INTERVAL = 10.0
"""Seconds between two lines."""


def duration(seconds: float) -> str:
    """Return a time as 'HH:MM:SS', with days before it where there are some."""
    seconds = round(seconds) if math.isfinite(seconds) else 0
    days, rest = divmod(seconds, 86400)
    clock = f'{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}'
    return f'{days} d {clock}' if days else clock


class Progress:
    """Counts to `total`; logs the count and the time left now and then, and at the end.

    Args:
        total: What it counts to.
        what: What it counts.
    """

    def __init__(self, total: int, what: str = 'images') -> None:
        self.total = total
        self.what = what
        self.done = 0
        self.start = self.last = time.monotonic()

    def add(self, count: int) -> None:
        """Count `count` more."""
        self.done += count
        now = time.monotonic()
        if now - self.last >= _INTERVAL or self.done == self.total:
            seconds = (now - self.start) / self.done * (self.total - self.done)
            _logger.info(f'{self.done:,}/{self.total:,} {self.what}  left: {duration(seconds)}')
            self.last = now
