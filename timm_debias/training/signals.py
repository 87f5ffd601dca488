"""Stopping a run by a signal: it saves where it is and exits with the code of that signal."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from ..machine import Machine
from ..ranks import host_group

_logger = logging.getLogger(__name__)

SIGNALS = [getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1', 'SIGINT') if hasattr(signal, name)]
"""SIGTERM and SIGUSR1 of a cluster, and the keyboard's, as far as the system has them."""


class Stopped(Exception):  # noqa: N818  Not an error: the run did what it was asked to.
    """The run was asked to stop by a signal.

    Attributes:
        code: Exit code, 128 + the signal's number, as a shell gives for a process that it killed: 143 for SIGTERM, 138
            for SIGUSR1 and 130 for SIGINT on Linux.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextlib.contextmanager
def handled(signals: list[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call `handler(number, frame)` for signals inside the `with` block, as far as Python lets this thread do so."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread handle signals.
        return
    before = {each: signal.signal(each, handler) for each in signals}
    try:
        yield
    finally:
        for each, former in before.items():
            signal.signal(each, former)


class StopSignals:
    """Notes SIGTERM, SIGUSR1 and SIGINT, and lets all processes stop after the same update or batch of validation.

    The signals reach the processes of a run at different times, or only one of them. After every update each process
    tells the others whether it has one, over the network of the hosts and while the next update is computed, so that
    nobody waits; the answer is known one update later. In validation it is the same from batch to batch.

    Args:
        machine: Where this process runs.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.number: int | None = None
        self._vote: tuple[torch.Tensor, Any] | None = None

    def noted(self) -> contextlib.AbstractContextManager[None]:
        """Note the signals inside the `with` block instead of dying of them; a second SIGINT ends the process."""
        return handled(SIGNALS, self._note)

    def through(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield batches of validation until a signal; the processes may have different numbers of them.

        Each has to iterate to its end, where it waits for the others: one that leaves off before would hang them.

        Raises:
            Stopped: there is a signal, in the same place in all processes.
        """
        for batch in batches:
            if number := self.agreed():
                raise Stopped(number)
            yield batch
        # Those that are through stay for the votes of the others.
        while self.machine.distributed:
            number, is_busy = self._result()
            if number:
                raise Stopped(number)
            if not is_busy:
                break
            self._cast(is_busy=False)

    def agreed(self) -> int | None:
        """Return the number of a signal that all processes know of, or None; to be called by all, once an update."""
        if not self.machine.distributed:
            return self.number
        number, _ = self._result()
        if not number:
            self._cast(is_busy=True)
        return number or None

    def _cast(self, is_busy: bool) -> None:
        """Begin a vote: has anyone a signal, and has anyone batches left?"""
        vote = torch.tensor([self.number or 0, int(is_busy)])
        group = host_group(dist.group.WORLD)
        self._vote = vote, dist.all_reduce(vote, dist.ReduceOp.MAX, group=group, async_op=True)

    def _result(self) -> tuple[int, bool]:
        """Wait for the last vote, if any, and return the number of the signal, or 0, and whether anyone is busy."""
        if self._vote is None:
            return 0, True
        (vote, work), self._vote = self._vote, None
        work.wait()
        number, is_busy = vote.tolist()
        return number, bool(is_busy)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is None:
            self.number = number
            _logger.warning(f'{signal.Signals(number).name}: saving, then stopping.')


def init_worker(worker_id: int) -> None:
    """Let a signal for the whole job, as Slurm sends it, pass by a data worker: the training process stops it.

    That process has to save first, and a worker that dies before is an error there.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'SIGUSR1'):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # Not on macOS, where SIGTERM for all processes stops without a checkpoint.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_when_told, args=(os.getppid(),), daemon=True).start()


def _exit_when_told(parent: int) -> None:
    """End this process at a SIGTERM of its parent, and at no other."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
