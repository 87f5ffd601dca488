"""Log lines for people, on standard error."""

import logging
import sys


class _StderrHandler(logging.Handler):
    """Writes to whatever standard error is at the moment, not to what it was when the handler was made."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def setup_logging() -> None:
    """Show INFO and above of every logger, message only; calling it again changes nothing."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in root.handlers):
        root.addHandler(_StderrHandler())
