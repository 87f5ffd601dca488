"""Kills a process at a moment, or at a call inside a function."""

import importlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from processes import Ended, launch, start


def at_a_moment(target: Callable[[], int], world_size: int, log: Path, seconds: float, chosen: random.Random) -> bool:
    """Run `target`, kill one process after `seconds` and soon the others; return whether it was running."""
    processes = start(target, world_size, log)
    victim = chosen.choice(processes)
    end = time.monotonic() + seconds
    while time.monotonic() < end and all(process.is_alive() for process in processes):
        time.sleep(0.001)
    running = all(process.is_alive() for process in processes)
    victim.kill()
    for process in processes:
        process.join(timeout=1)  # The others may notice, or write on.
        process.kill()
        process.join()
    return running and victim.exitcode == -signal.SIGKILL


def at_a_call(target: Callable[[], int], places: tuple[str, ...], log: Path, number: int) -> bool:
    """Run `target`, which kills itself at a call inside `places`; return whether it came so far."""

    def killing() -> int:
        watch(places, lambda calls: calls == number and os.kill(os.getpid(), signal.SIGKILL))
        return target()

    return launch(killing, 1, log)[0].code == -signal.SIGKILL


def count_calls(target: Callable[[], int], places: tuple[str, ...], log: Path) -> tuple[Ended, int]:
    """Run `target` to its end and return how it ended and the number of calls inside `places`."""
    log.mkdir(parents=True)

    def counting() -> int:
        calls = [0]
        watch(places, lambda number: calls.__setitem__(0, number))
        code = target()
        (log / 'calls').write_text(str(calls[0]))
        return code

    ended = launch(counting, 1, log / 'run')[0]
    return ended, int((log / 'calls').read_text())


def watch(places: tuple[str, ...], notice: Callable[[int], object]) -> None:
    """Call `notice` with a running number at every call of Python or C that is made inside some functions.

    Args:
        places: Functions as `module:name` or `module:Class.name`.
        notice: Called with 1, 2, 3, …
    """
    calls = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        if event in ('call', 'c_call'):
            calls += 1
            notice(calls)

    def watched(function: Callable) -> Callable:
        def wrapped(*args: object, **options: object) -> object:
            sys.setprofile(profile)
            try:
                return function(*args, **options)
            finally:
                sys.setprofile(None)

        return wrapped

    for place in places:
        module, _, path = place.partition(':')
        owner, names = importlib.import_module(module), path.split('.')
        for name in names[:-1]:
            owner = getattr(owner, name)
        setattr(owner, names[-1], watched(getattr(owner, names[-1])))
