"""How long the device works on one stage of a step, without making the host wait for it."""

import time
from typing import Any

import torch


class StageTimer:
    """Adds up the time between the beginnings and the ends of a `with` block; one that may be entered every step.

    On CUDA the block is timed by events, which the device records as it comes to them and the host reads in `take`: a
    step waits for nothing. On the CPU, by the clock.

    Args:
        device: Where the stage runs: CUDA or CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds = 0.0
        self._begun: Any = None
        self._events: list[tuple[Any, Any]] = []

    @staticmethod
    def supports(device: torch.device) -> bool:
        """Return whether times of this device can be told."""
        return device.type in ('cpu', 'cuda')

    def __enter__(self) -> None:
        self._begun = self._mark()

    def __exit__(self, *_: object) -> None:
        ended = self._mark()
        if self.device.type == 'cuda':
            self._events.append((self._begun, ended))
        else:
            self._seconds += ended - self._begun

    def take(self) -> float:
        """Return the seconds since the last call; waits for the device to come to the end of the last block."""
        if self._events:
            self._events[-1][1].synchronize()
            self._seconds += sum(begun.elapsed_time(ended) for begun, ended in self._events) / 1000
            self._events = []
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _mark(self) -> Any:
        if self.device.type != 'cuda':
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event
