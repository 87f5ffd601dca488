"""Runs a function in processes of its own, forked from this one so that nothing is imported twice."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """How a process ended: exit code (negative: the signal that killed it), standard output and error."""

    code: int
    out: str
    err: str


def start(target: Callable[[], int | None], world_size: int, folder: Path) -> list[BaseProcess]:
    """Start `target` in as many processes as torchrun would; `folder` takes what they print."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True)

    def work(rank: int) -> None:
        os.setpgid(0, 0)  # What kills this process's group must not reach the tests.
        if world_size > 1:
            place = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': world_size, 'MASTER_ADDR': '127.0.0.1'}
            os.environ.update({name: str(value) for name, value in {**place, 'MASTER_PORT': port}.items()})
        sys.stdout = (folder / f'out{rank}').open('w')
        sys.stderr = (folder / f'err{rank}').open('w', errors='backslashreplace')  # As Python opens it.
        sys.exit(target())

    processes = [multiprocessing.get_context('fork').Process(target=work, args=(rank,)) for rank in range(world_size)]
    for process in processes:
        process.start()
    return processes


def launch(target: Callable[[], int | None], world_size: int, folder: Path) -> list[Ended]:
    """Run `target` in as many processes as torchrun would start, and wait for all; `folder` takes what they print."""
    processes = start(target, world_size, folder)
    for process in processes:
        process.join(timeout=300)
    for process in processes:
        process.kill()
        process.join()
    return [
        Ended(process.exitcode or 0, (folder / f'out{rank}').read_text(), (folder / f'err{rank}').read_text())
        for rank, process in enumerate(processes)
    ]


def forked(target: Callable[[], int | None], folder: Path) -> Ended:
    """Run `target` in one process, and wait for it."""
    return launch(target, 1, folder)[0]
