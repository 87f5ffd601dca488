"""The process of one run: trains, then measures.

    python -m timm_debias.study.worker RUN_DIR train validate

The flags of each stage lie in RUN_DIR, as `train.yaml` and `validate.yaml`. `seconds.json` has the time of each stage
that is done, `unfinished.json` that of one which a signal or an error ended, and `exit.RANK.json` says how this process
ended where it did not do all. A crash ends this process alone. When standard input ends, training saves where it is and
this process ends: whatever becomes of the process that started it, nothing is left running.
"""

import contextlib
import io
import json
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
import yaml

from .. import cli
from ..files import write_text
from .state import SECONDS, UNFINISHED, read_times

EXIT = 'exit.{}.json'

_GRACE = 300
"""Seconds to save a checkpoint in."""


class _LastLine(io.TextIOBase):
    """Passes text on, and keeps its last line: for a mistake it says what it was, for a crash its exception."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._end = ''

    def write(self, text: str) -> int:
        self._end = (self._end + text)[-10_000:]
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def line(self) -> str:
        """The last line that is not empty."""
        return next((line.strip() for line in reversed(self._end.splitlines()) if line.strip()), '')


def main(argv: Sequence[str]) -> int:
    """Do the stages that are not done yet; returns the exit code of the first that fails."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _leave)  # Measuring has no handlers of its own, and its time is to be noted.
    folder, *stages = argv
    rank = os.environ.get('RANK', '0')
    for stage in stages:
        if _is_done(Path(folder), stage):
            continue
        wall, cpu = time.monotonic(), _cpu_seconds()
        code, reason = _run(stage, Path(folder))
        if rank == '0':
            _note(Path(folder), stage, {'wall': time.monotonic() - wall, 'cpu': _cpu_seconds() - cpu}, done=code == 0)
        if code:
            _write(Path(folder) / EXIT.format(rank), {'code': code, 'error': reason, 'time': time.time()})
            return code
    return 0


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


def _is_done(folder: Path, stage: str) -> bool:
    """Return whether a stage was done and what it left is still there."""
    flags = yaml.safe_load((folder / 'validate.yaml').read_text(encoding='utf-8'))
    left = {'train': Path(flags['checkpoint']), 'validate': Path(flags['results_dir'], 'results.json')}
    return stage in read_times(folder / SECONDS) and left[stage].is_file()


def _run(stage: str, folder: Path) -> tuple[int, str]:
    """Return the exit code of a stage, and the last thing it said."""
    errors = _LastLine(sys.stderr)
    with contextlib.redirect_stderr(errors):
        try:
            code = cli.run(stage, ['-c', str(folder / f'{stage}.yaml')])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except Exception:
            traceback.print_exc()
            code = 1
    return code, errors.line


def _note(folder: Path, stage: str, spent: Mapping[str, float], done: bool) -> None:
    """Add the time of a stage to that of the calls before, which did not finish it; what was killed noted nothing."""
    seconds, unfinished = read_times(folder / SECONDS), read_times(folder / UNFINISHED)
    before = unfinished.pop(stage, {})
    total: dict[str, Any] = {clock: round(value + before.get(clock, 0.0), 1) for clock, value in spent.items()}
    if done:
        device = {'gpu': torch.cuda.get_device_name()} if torch.cuda.is_initialized() else {'processor': _processor()}
        _write(folder / SECONDS, seconds | {stage: total | device})
    else:
        unfinished[stage] = total
    _write(folder / UNFINISHED, unfinished)


def _cpu_seconds() -> float:
    """Return the CPU time of this process, and of the data workers that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:  # Not Linux.
        lines = []
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, platform.processor() or platform.machine())


def _write(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values) + '\n')


def _end_with_parent() -> None:
    # Not through sys.stdin, whose lock this thread would still hold when the interpreter ends.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
