"""Runs what is not finished, each run in a process of its own."""

import json
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import timm
import torch
import yaml

from .. import __version__
from ..errors import DebiasError
from ..files import check_no_links, write_text
from ..schema import mapping, mapping_of, number, record, text
from ..validation.results import read_json
from .grid import Run, filled
from .lock import locked
from .worker import SECONDS

_logger = logging.getLogger(__name__)

STATE = 'run.json'
LOG = 'log.txt'
RESULTS = 'results'

_STOPPED = {
    code for name in ('SIGTERM', 'SIGINT', 'SIGUSR1') for code in (-signal.Signals[name], 128 + signal.Signals[name])
}
"""Exit codes of a process that a signal stopped: at once, or after it had saved where it was."""

_flags = {'train': mapping, 'validate': mapping, 'error': text}
_state = record({'status': text}, _flags)
_finished = record({'seconds': mapping_of(record({'cpu': number})), 'versions': mapping_of(text)}, _flags)

_POLL = 0.5
"""Seconds between two looks at a run that another process has."""


@dataclass(frozen=True)
class Launch:
    """How runs are started."""

    folder: Path
    """Holds the folder of each run."""

    variables: Mapping[str, str]
    checkpoint: str
    jobs: int = 1
    """Runs at once."""

    threads: int = 1
    """CPU threads of each."""

    processes: int = 1
    """Processes of each run, started by torchrun, one a GPU."""


def state_of(folder: Path, run: Run) -> dict[str, Any]:
    """Return what is known of a run: `status` is 'missing', 'started', 'failed' or 'finished'.

    Raises:
        DebiasError: the folder holds a run of other flags, or what is no run.
    """
    path = folder / run.name / STATE
    if not path.is_file():
        return {'status': 'missing'}
    state = read_json(path)
    try:
        (_finished if state.get('status') == 'finished' else _state)(state, str(path))
    except ValueError as error:
        raise DebiasError(f'{error}; not the state of a run: remove the folder to run it again') from error
    for command in ('train', 'validate'):
        then, now = state.get(command, {}), getattr(run, command)
        different = [
            f'{flag} was {then.get(flag)!r} and is {now.get(flag)!r}'
            for flag in {**then, **now}
            if then.get(flag) != now.get(flag)
        ]
        if different:
            raise DebiasError(
                f'{path.parent} holds a run of other flags ({command}: {"; ".join(different)}); choose another '
                '--output, or remove the folder'
            )
    return state


def run_all(runs: Sequence[Run], launch: Launch) -> dict[str, str]:
    """Run what is not finished; a run that fails is recorded, and the others go on.

    Returns:
        For each run by name: 'finished', 'failed', or 'stopped' by a signal from outside. A run that another process
        has is waited for, after the others: that process finishes it, or leaves it to this one.

    Raises:
        DebiasError: a folder that holds a run of other flags, before anything is started.
    """
    left = [run for run in runs if state_of(launch.folder, run)['status'] != 'finished']
    if len(left) < len(runs):
        _logger.info(f'{len(runs) - len(left)} of {len(runs)} runs were finished before.')
    pool = _Pool(launch, len(left))
    outcomes = {run.name: 'finished' for run in runs}
    with ThreadPoolExecutor(launch.jobs) as executor:
        try:
            outcomes |= zip([run.name for run in left], executor.map(pool.run, left), strict=True)
            busy = [run for run in left if outcomes[run.name] == 'busy']
            outcomes |= zip([run.name for run in busy], executor.map(pool.wait_and_run, busy), strict=True)
        except BaseException:
            pool.stop()
            executor.shutdown(cancel_futures=True)
            raise
    return outcomes


class _Pool:
    """The processes of the runs that are going on."""

    def __init__(self, launch: Launch, total: int) -> None:
        self._launch = launch
        self._total, self._done = total, 0
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen] = set()
        self._stopped = False
        self._slots: SimpleQueue[int] = SimpleQueue()
        for slot in range(launch.jobs):
            self._slots.put(slot)

    def run(self, run: Run) -> str:
        """Run one, and return how it ended; 'busy' where another process has it."""
        slot = self._slots.get()
        try:
            with locked(self._launch.folder / run.name / '.lock') as descriptor:
                if descriptor is None:
                    _logger.warning(f'{run.name} is being run by another process.')
                    return 'busy'
                status = self._run(run, slot, descriptor)
        finally:
            self._slots.put(slot)
        with self._lock:
            self._done += 1
            _logger.info(f'[{self._done}/{self._total}] {run.name}: {status}')
        return status

    def wait_and_run(self, run: Run) -> str:
        """Run one as soon as no other process has it, and return how it ended."""
        status = 'busy'
        while status == 'busy' and not self._stopped:
            with locked(self._launch.folder / run.name / '.lock') as descriptor:
                busy = descriptor is None
            if busy:
                time.sleep(_POLL)
            else:
                status = self.run(run)
        return status

    def stop(self) -> None:
        """End all processes."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                assert process.stdin is not None
                process.stdin.close()

    def _run(self, run: Run, slot: int, descriptor: int) -> str:
        folder = self._launch.folder / run.name
        if state_of(self._launch.folder, run)['status'] == 'finished':
            return 'finished'  # By another process, since this one looked.
        check_no_links(folder, '--output')
        if (folder / LOG).is_symlink():
            (folder / LOG).unlink()  # What is appended must not go elsewhere.
        known: dict[str, Any] = {'train': run.train, 'validate': run.validate, 'versions': _versions()}
        _write_state(folder, known | {'status': 'started'})
        _write_flags(run, folder, self._launch)
        code = 0
        for command in _commands(folder, self._launch.processes):
            code = code or self._wait(command, folder, slot, descriptor)
        if self._stopped or code in _STOPPED:
            return 'stopped'  # Neither failed nor finished: the next call goes on with it.
        if code:
            reason = _reason(folder / LOG, code)
            _logger.warning(f'{run.name} failed: {reason}; all of it: {folder / LOG}')
            _write_state(folder, known | {'status': 'failed', 'error': reason})
            return 'failed'
        _write_state(folder, known | {'status': 'finished', 'seconds': read_json(folder / SECONDS)})
        return 'finished'

    def _wait(self, command: Sequence[str], folder: Path, slot: int, descriptor: int) -> int:
        """Return the exit code of a process; its output goes to the log of the run."""
        with open(folder / LOG, 'ab') as log:
            with self._lock:
                if self._stopped:
                    return 1
                process = subprocess.Popen(
                    command,
                    env=_environment(self._launch, slot),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[descriptor],
                    start_new_session=True,  # An interrupt from the keyboard ends them through `stop`.
                )
                self._processes.add(process)
            code = process.wait()
        with self._lock:
            self._processes.remove(process)
        return code


def _write_flags(run: Run, folder: Path, launch: Launch) -> None:
    """Write the flags of both stages, so that each can be repeated by hand: `timm-debias train -c train.yaml`."""
    variables = run.variables | dict(launch.variables)
    train = filled(run.train, variables) | {
        'seed': run.seed,
        'output': str(folder.parent),
        'experiment': run.name,
        'resume': 'auto',
    }
    validate = filled(run.validate, variables) | {
        'checkpoint': str(folder / launch.checkpoint),
        'results_dir': str(folder / RESULTS),
        'resume': True,
    }
    write_text(folder / 'train.yaml', yaml.safe_dump(train))
    write_text(folder / 'validate.yaml', yaml.safe_dump(validate))


def _commands(folder: Path, processes: int) -> list[list[str]]:
    module = ['-m', 'timm_debias.study.worker', str(folder)]
    if processes == 1:
        return [[sys.executable, *module, 'train', 'validate']]
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(processes)]
    return [[*torchrun, *module, stage] for stage in ('train', 'validate')]


def _environment(launch: Launch, slot: int) -> dict[str, str]:
    environment = {**os.environ, 'OMP_NUM_THREADS': str(launch.threads), 'MKL_NUM_THREADS': str(launch.threads)}
    gpus = environment.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(torch.cuda.device_count())))
    if launch.processes == 1 and launch.jobs > 1 and gpus:
        visible = gpus.split(',')
        environment['CUDA_VISIBLE_DEVICES'] = visible[slot % len(visible)]
    return environment


def _versions() -> dict[str, str]:
    return {
        'timm_debias': __version__,
        'timm': timm.__version__,
        'torch': torch.__version__,
        'python': platform.python_version(),
        'machine': platform.machine(),
    }


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    write_text(folder / STATE, json.dumps(state, indent=4, ensure_ascii=False) + '\n')


def _reason(log: Path, code: int) -> str:
    """Return the last line of a log, which for a mistake says what it was, and for a crash its exception."""
    lines = [line.strip() for line in log.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()]
    return f'{lines[-1][:300]} (exit code {code})' if lines else f'exit code {code}'
