"""Batches that do not fit into memory: told from other failures, and halved."""

import logging

import torch

from .errors import DebiasError

_logger = logging.getLogger(__name__)

_PHRASES = ('out of memory', "can't allocate memory", 'alloc_failed')


class BatchTooLargeError(DebiasError):
    """A batch did not fit into memory."""

    def __init__(self, what: str, batch_size: int) -> None:
        smaller = 'give a smaller -b, or --retry to halve it until it fits' if batch_size > 1 else 'free some memory'
        super().__init__(f'{what}: out of memory with batches of {batch_size}; {smaller}')
        self._arguments = (what, batch_size)

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return type(self), self._arguments


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch says that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(phrase in str(error).lower() for phrase in _PHRASES)


def halve(batch_size: int, error: BatchTooLargeError) -> int:
    """Return the next smaller batch size.

    Raises:
        BatchTooLargeError: `error`, where one image is too large already.
    """
    if batch_size == 1:
        raise error
    _logger.warning(f'Out of memory with batches of {batch_size}: trying again with {batch_size // 2}.')
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return batch_size // 2
