"""Runs what is not finished, each run in a process of its own."""

import contextlib
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
from types import FrameType
from typing import Any

import timm
import torch
import yaml

from .. import __version__
from ..errors import DebiasError
from ..files import check_no_links, write_text
from ..training.signals import SIGNALS, Stopped, handled
from ..untrusted import read_json
from .config import CHECKPOINTS
from .grid import Run, filled
from .lock import locked
from .state import SECONDS, read_state, read_times, write_state
from .worker import EXIT

_logger = logging.getLogger(__name__)

LOG = 'log.txt'
RESULTS = 'results'

_STOPPED = {code for each in SIGNALS for code in (-each, 128 + each)}
"""Exit codes of a process that a signal stopped: at once, or after it had saved where it was."""

_POLL = 0.5
"""Seconds between two looks at a run that another process has."""

_OF_THE_JOB = ('SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID', 'WORLD_SIZE', 'RANK', 'LOCAL_RANK')
"""Variables by which a run would take itself for one process of several."""


@dataclass(frozen=True)
class Launch:
    """How runs are started."""

    folder: Path
    """Holds the folder of each run."""

    variables: Mapping[str, str]
    jobs: int = 1
    """Runs at once."""

    threads: int = 1
    """CPU threads of each."""

    processes: int = 1
    """Processes of each run, started by torchrun, one a GPU."""


def state_of(folder: Path, run: Run) -> dict[str, Any]:
    """Return what is known of a run, its `processes` and `status`: 'missing', 'started', 'failed' or 'finished'.

    Raises:
        DebiasError: the folder holds a run of other flags, or what is no run.
    """
    own = folder / run.name
    found = read_state(own)
    if found is None:
        return {'status': 'missing', 'processes': 1}
    # A state that was written without these is of the last epoch, and counts as of one process.
    state: dict[str, Any] = {'checkpoint': CHECKPOINTS['last'], 'processes': 1} | found
    if state['checkpoint'] != run.checkpoint:
        raise DebiasError(
            f'{own} holds a run of another checkpoint ({state["checkpoint"]} was measured, the study says '
            f'{run.checkpoint}); choose another --output, or remove the folder'
        )
    for command in ('train', 'validate'):
        then, now = state.get(command, {}), getattr(run, command)
        different = [
            f'{flag} was {then.get(flag)!r} and is {now.get(flag)!r}'
            for flag in {**then, **now}
            if then.get(flag) != now.get(flag)
        ]
        if different:
            raise DebiasError(
                f'{own} holds a run of other flags ({command}: {"; ".join(different)}); choose another '
                '--output, or remove the folder'
            )
    return state


def run_all(runs: Sequence[Run], launch: Launch) -> dict[str, str]:
    """Run what is not finished; a run that fails is recorded, and the others go on.

    Returns:
        For each run by name: 'finished', 'failed', or 'stopped' by a signal from outside. A run that another process
        has is waited for, after the others: that process finishes it, or leaves it to this one.

    Raises:
        DebiasError: a folder that holds a run of other flags or another number of processes, or, with several jobs,
            too few GPUs for them, before anything is started.
        Stopped: SIGTERM or SIGUSR1, after the processes have saved where they are.
    """
    left = [run for run in runs if not _is_finished(run, launch)]
    if left:
        _environment(launch, launch.jobs - 1)  # Raises where there is no GPU for the last.
    if len(left) < len(runs):
        _logger.info(f'{len(runs) - len(left)} of {len(runs)} runs were finished before.')
    pool = _Pool(launch, len(left))
    outcomes = {run.name: 'finished' for run in runs}
    with _stoppable(), ThreadPoolExecutor(launch.jobs) as executor:
        try:
            outcomes |= zip([run.name for run in left], executor.map(pool.run, left), strict=True)
            busy = [run for run in left if outcomes[run.name] == 'busy']
            outcomes |= zip([run.name for run in busy], executor.map(pool.wait_and_run, busy), strict=True)
        except BaseException:
            pool.stop()
            executor.shutdown(cancel_futures=True)
            raise
    return outcomes


def _is_finished(run: Run, launch: Launch) -> bool:
    state = state_of(launch.folder, run)
    if state['status'] != 'missing' and state['processes'] != launch.processes:
        # The batch size is that of one process, and the learning rate may depend on their number.
        raise DebiasError(
            f'{launch.folder / run.name} holds a run of another number of processes; give --nproc-per-node '
            f'{state["processes"]} instead of {launch.processes}, choose another --output, or remove the folder'
        )
    return state['status'] == 'finished'


def _stoppable() -> contextlib.AbstractContextManager[None]:
    """Raise `Stopped` inside the block at the first SIGTERM or SIGUSR1."""
    signals = [each for each in SIGNALS if each != signal.SIGINT]  # The keyboard's is Python's KeyboardInterrupt.

    def stop(number: int, frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, lambda *_: None)  # The processes are saving.
        raise Stopped(number)

    return handled(signals, stop)


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
        if _is_finished(run, self._launch):
            return 'finished'  # By another process, since this one looked.
        check_no_links(folder, '--output')
        if (folder / LOG).is_symlink():
            (folder / LOG).unlink()  # What is appended must not go elsewhere.
        versions = _versions()
        known: dict[str, Any] = {'train': run.train, 'validate': run.validate, 'checkpoint': run.checkpoint}
        known |= {'processes': self._launch.processes, 'versions': versions}
        write_state(folder, known | {'status': 'started'})
        _write_flags(run, folder, self._launch)
        _logger.info(f'{run.name}: started, its log is {folder / LOG}')
        code, reason = 0, ''
        for command in _commands(folder, self._launch.processes):
            if not code:
                code, reason = self._wait(command, folder, slot, descriptor)
        if self._stopped or code in _STOPPED:
            return 'stopped'  # Neither failed nor finished: the next call goes on with it.
        if code:
            _logger.warning(f'{run.name} failed: {reason}; all of it: {folder / LOG}')
            write_state(folder, known | {'status': 'failed', 'error': reason})
            return 'failed'
        seconds = read_times(folder / SECONDS)
        devices = {key: spent[key] for spent in seconds.values() for key in ('gpu', 'processor') if key in spent}
        write_state(folder, known | {'status': 'finished', 'seconds': seconds, 'versions': versions | devices})
        return 'finished'

    def _wait(self, command: Sequence[str], folder: Path, slot: int, descriptor: int) -> tuple[int, str]:
        """Return the exit code of a process and why it ended; its output goes to the log of the run."""
        for path in folder.glob(EXIT.format('*')):
            path.unlink()  # Of an earlier try.
        with open(folder / LOG, 'ab') as log:
            start = log.tell()
            with self._lock:
                if self._stopped:
                    return 1, ''
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
        return _ending(folder, code, start, self._launch.processes)


def _ending(folder: Path, code: int, start: int, processes: int) -> tuple[int, str]:
    """Return the exit code of a run and its reason.

    torchrun ends with 1 and a table whatever happened, so what the processes of the run wrote goes before: the first
    that failed by itself, not by the signal with which torchrun ends the others.

    Args:
        folder: That of the run.
        code: Exit code of the command.
        start: Size of the log before it.
        processes: How many it had.
    """
    if code == 0:
        return 0, ''
    ends = [read_json(path, 'the end of a process') for path in folder.glob(EXIT.format('*'))]
    ends.sort(key=lambda end: end['time'])
    failed = [end for end in ends if end['code'] not in _STOPPED]
    if failed:
        return failed[0]['code'], f'{failed[0]["error"][:300]} (exit code {failed[0]["code"]})'
    if len(ends) == processes:
        return ends[0]['code'], ''
    with open(folder / LOG, 'rb') as log:
        log.seek(start)
        lines = [line.strip() for line in log.read().decode('utf-8', errors='replace').splitlines() if line.strip()]
    return code, f'{lines[-1][:300]} (exit code {code})' if lines else f'exit code {code}'


def _write_flags(run: Run, folder: Path, launch: Launch) -> None:
    """Write the flags of both stages.

    `timm-debias train -c train.yaml --output ELSEWHERE` repeats the training by hand; here it goes on, or is finished.
    """
    variables = run.variables | dict(launch.variables)
    train = filled(run.train, variables) | {
        'seed': run.seed,
        'output': str(folder.parent),
        'experiment': run.name,
        'resume': 'auto',
    }
    validate = filled(run.validate, variables) | {
        'checkpoint': str(folder / run.checkpoint),
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
    # Each run is whole, also where the study itself is one of the tasks of a Slurm job.
    environment = {name: value for name, value in os.environ.items() if name not in _OF_THE_JOB}
    environment |= {'OMP_NUM_THREADS': str(launch.threads), 'MKL_NUM_THREADS': str(launch.threads)}
    gpus = environment.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(torch.cuda.device_count())))
    if launch.jobs == 1 or not gpus:
        return environment
    visible = gpus.split(',')
    own = visible[slot * launch.processes : (slot + 1) * launch.processes]
    if launch.processes == 1:
        own = [visible[slot % len(visible)]]  # Small runs may share one.
    elif len(own) < launch.processes:
        raise DebiasError(
            f'--jobs {launch.jobs} with --nproc-per-node {launch.processes} takes {launch.jobs * launch.processes} '
            f'GPUs, of {len(visible)} here; give fewer --jobs'
        )
    environment['CUDA_VISIBLE_DEVICES'] = ','.join(own)
    return environment


def _versions() -> dict[str, str]:
    return {
        'timm_debias': __version__ + _commit(),
        'timm': timm.__version__,
        'torch': torch.__version__,
        'python': platform.python_version(),
        'machine': platform.machine(),
    }


def _commit() -> str:
    """Return ' (commit …)', the last that changed this package, or nothing where it lies in no repository."""
    git = ['git', '-C', str(Path(__file__).parents[1])]
    words = [['log', '-1', '--format=%h', '--abbrev=12', '--', '.'], ['status', '--porcelain', '--', '.']]
    try:
        commit, changes = (
            subprocess.run([*git, *line], capture_output=True, text=True, check=True).stdout.strip() for line in words
        )
    except (OSError, subprocess.CalledProcessError):
        return ''
    return f' (commit {commit}{", with changes" if changes else ""})' if commit else ''
