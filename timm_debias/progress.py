"""Log lines that say how far a long run is."""

import logging
import time

_logger = logging.getLogger(__name__)

_INTERVAL = 10.0
"""Seconds between two lines."""


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
            hours, rest = divmod(round(seconds), 3600)
            _logger.info(
                f'{self.done:,}/{self.total:,} {self.what}  left: {hours:02d}:{rest // 60:02d}:{rest % 60:02d}'
            )
            self.last = now
