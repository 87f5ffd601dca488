"""Runs in processes of their own: resume, shards, failures, killed parents. The processes here train nothing."""

import errno
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from timm_debias import DebiasError
from timm_debias.study import runner
from timm_debias.study.grid import Run
from timm_debias.study.lock import locked
from timm_debias.study.runner import Launch, run_all, state_of
from timm_debias.training.signals import Stopped

WORK = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
with open(folder / 'starts', 'a') as file:
    file.write(os.environ['OMP_NUM_THREADS'] + ' ' + os.environ.get('CUDA_VISIBLE_DEVICES', '-') + chr(10))
if (folder.parent.parent / ('fail-' + folder.name)).exists():
    sys.exit('cannot go on')
(folder / 'seconds.json').write_text(json.dumps({'train': {'wall': 1, 'cpu': 1, 'processor': 'one'}}))
"""
"""What a run does: notes that it was started, and fails where a file says so."""

WAIT = 'import sys; print("ready", flush=True); sys.stdin.read()'


def runs(count: int = 4) -> list[Run]:
    return [Run('', '', 'plain', seed, {'epochs': 1}, {'benchmarks': 'folder'}) for seed in range(count)]


@pytest.fixture
def launch(tmp_path, monkeypatch) -> Launch:
    monkeypatch.setattr(runner, '_commands', lambda folder, processes: [[sys.executable, '-c', WORK, str(folder)]])
    return Launch(tmp_path / 'runs', {}, jobs=2, threads=3)


def starts(launch: Launch) -> dict[str, int]:
    """How often each run was started."""
    return {path.parent.name: len(path.read_text().splitlines()) for path in launch.folder.glob('*/starts')}


def statuses(launch: Launch, count: int = 4) -> list[str]:
    return [state_of(launch.folder, run)['status'] for run in runs(count)]


def wait_until_both_run(launch: Launch) -> None:
    """A log is there before its process is, so what counts is that the processes have written."""
    deadline = time.monotonic() + 60  # Where they never do, the caller sends its signal all the same, and fails.
    while sum(path.stat().st_size > 0 for path in launch.folder.glob('*/log.txt')) < 2:
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def test_finished_runs_are_never_repeated(launch):
    assert statuses(launch) == ['missing'] * 4
    assert run_all(runs(2), launch) == {'plain.0': 'finished', 'plain.1': 'finished'}
    assert run_all(runs(), launch) == dict.fromkeys(['plain.0', 'plain.1', 'plain.2', 'plain.3'], 'finished')
    assert starts(launch) == {f'plain.{seed}': 1 for seed in range(4)}
    state = json.loads((launch.folder / 'plain.0/run.json').read_text())
    assert state['seconds'] == {'train': {'wall': 1, 'cpu': 1, 'processor': 'one'}}
    assert state['versions']['torch']


def test_a_failing_run_is_recorded_and_the_others_go_on(launch):
    mark = launch.folder.parent / 'fail-plain.1'
    mark.touch()
    assert run_all(runs(), launch)['plain.1'] == 'failed'
    assert statuses(launch) == ['finished', 'failed', 'finished', 'finished']
    assert state_of(launch.folder, runs()[1])['error'] == 'cannot go on (exit code 1)'
    mark.unlink()
    assert run_all(runs(), launch)['plain.1'] == 'finished'
    assert starts(launch) == {'plain.0': 1, 'plain.1': 2, 'plain.2': 1, 'plain.3': 1}


@pytest.mark.parametrize('code', [143, 138, 130, -15])
def test_a_run_that_was_told_to_stop_has_not_failed(launch, monkeypatch, code):
    """As Slurm stops runs: they save and exit with 128 + the signal, or end at once."""
    script = f'import os, sys; sys.exit({code}) if {code} > 0 else os.kill(os.getpid(), {-code})'
    monkeypatch.setattr(runner, '_commands', lambda folder, processes: [[sys.executable, '-c', script]])
    assert run_all(runs(1), launch) == {'plain.0': 'stopped'}
    assert statuses(launch, 1) == ['started']


def test_flags_of_the_stages(launch):
    run = Run('noto', '', 'plain', 5, {'data_dir': '${DATA}/${data}', 'epochs': 1}, {'benchmarks': 'folder'})
    started = Launch(launch.folder, {'DATA': '/d'})
    folder = launch.folder / run.name
    folder.mkdir(parents=True)
    runner._write_flags(run, folder, started)
    assert yaml.safe_load((folder / 'train.yaml').read_text()) == {
        'data_dir': '/d/noto', 'epochs': 1, 'seed': 5, 'output': str(launch.folder), 'experiment': 'noto.plain.5',
        'resume': 'auto',
    }  # fmt: skip
    validate = yaml.safe_load((folder / 'validate.yaml').read_text())
    assert validate == {
        'benchmarks': 'folder', 'checkpoint': str(folder / 'last.pth.tar'), 'results_dir': str(folder / 'results'),
        'resume': True,
    }  # fmt: skip


def test_other_flags_are_refused(launch):
    run_all(runs(1), launch)
    other = Run('', '', 'plain', 0, {'epochs': 2}, {'benchmarks': 'folder'})
    with pytest.raises(DebiasError, match=r'plain\.0 holds a run of other flags \(train: epochs was 1 and is 2\)'):
        run_all([*runs(4)[1:], other], launch)
    assert starts(launch) == {'plain.0': 1}


def test_another_checkpoint_is_refused(launch):
    run_all(runs(1), launch)
    best = replace(runs(1)[0], checkpoint='model_best.pth.tar')
    with pytest.raises(DebiasError, match=r'plain\.0 holds a run of another checkpoint \(last\.pth\.tar was measured'):
        run_all([best], launch)


def test_another_number_of_processes_is_refused(launch):
    """The batch size is that of one process; folders that were written before it was noted count as of one."""
    run_all(runs(2), replace(launch, jobs=1, processes=4))
    state = launch.folder / 'plain.1/run.json'
    known = json.loads(state.read_text())
    assert known.pop('processes') == 4
    with pytest.raises(DebiasError, match=r'plain\.0 .* give --nproc-per-node 4 instead of 1'):
        run_all(runs(1), launch)
    del known['checkpoint']
    state.write_text(json.dumps(known))
    assert run_all(runs()[1:2], launch) == {'plain.1': 'finished'}
    with pytest.raises(DebiasError, match=r'plain\.1 .* give --nproc-per-node 1 instead of 4'):
        run_all(runs()[1:], replace(launch, jobs=1, processes=4))
    assert starts(launch) == {'plain.0': 1, 'plain.1': 1}


def test_threads_and_gpus(launch, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,6')
    run_all(runs(), launch)
    lines = [path.read_text().split() for path in launch.folder.glob('*/starts')]
    assert {threads for threads, _ in lines} == {'3'}
    assert {gpu for _, gpu in lines} == {'4', '6'}


def test_a_run_is_no_task_of_the_job_that_the_study_is_in(launch, monkeypatch):
    """With these, the run would take itself for one process of several, wait for the others, or note no time."""
    names = ('SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID', 'WORLD_SIZE', 'RANK', 'LOCAL_RANK')
    script = WORK + f'sys.exit(" ".join(sorted({set(names)} & set(os.environ))) or 0)'
    monkeypatch.setattr(runner, '_commands', lambda folder, processes: [[sys.executable, '-c', script, str(folder)]])
    for name in names:
        monkeypatch.setenv(name, '8')
    assert run_all(runs(1), launch) == {'plain.0': 'finished'}


def test_gpus_of_several_processes(launch, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1,2,3,8,9')
    run_all(runs(), replace(launch, processes=3))
    assert {path.read_text().split()[1] for path in launch.folder.glob('*/starts')} == {'0,1,2', '3,8,9'}
    with pytest.raises(DebiasError, match='--jobs 2 with --nproc-per-node 4 takes 8 GPUs, of 6 here'):
        run_all([replace(run, method='other') for run in runs()], replace(launch, processes=4))
    assert not list(launch.folder.glob('other*'))


TORCHRUN = """
import json, pathlib, sys
for rank, end in enumerate(ENDS):
    if end:
        path = pathlib.Path(sys.argv[1], f'exit.{rank}.json')
        path.write_text(json.dumps({'code': end[0], 'error': end[1], 'time': end[2]}))
sys.exit('===== (exit code 1)')
"""
"""Ends as torchrun does, after each process has told how it ended."""


@pytest.mark.parametrize(
    ('ends', 'outcome', 'error'),
    [
        ([(143, 'saving', 2), (2, 'no such folder', 1)], 'failed', 'no such folder (exit code 2)'),
        ([(1, 'broken pipe', 2), (1, 'out of memory', 1)], 'failed', 'out of memory (exit code 1)'),
        ([(143, 'saving', 2), (143, 'saving', 1)], 'stopped', None),
        ([(143, 'saving', 2), None], 'failed', '===== (exit code 1) (exit code 1)'),  # The other was killed.
    ],
)
def test_why_a_run_under_torchrun_ended(launch, monkeypatch, ends, outcome, error):
    script = TORCHRUN.replace('ENDS', repr(ends))
    monkeypatch.setattr(runner, '_commands', lambda folder, processes: [[sys.executable, '-c', script, str(folder)]])
    assert run_all(runs(1), replace(launch, jobs=1, processes=2)) == {'plain.0': outcome}
    assert state_of(launch.folder, runs()[0]).get('error') == error


def test_a_silent_crash_has_no_reason_of_an_earlier_one(launch, monkeypatch):
    (launch.folder.parent / 'fail-plain.0').touch()
    run_all(runs(1), launch)
    monkeypatch.setattr(runner, '_commands', lambda folder, processes: [[sys.executable, '-c', 'raise SystemExit(7)']])
    run_all(runs(1), launch)
    assert state_of(launch.folder, runs()[0])['error'] == 'exit code 7'


def test_what_a_run_was_made_with(launch):
    run_all(runs(1), launch)
    state = json.loads((launch.folder / 'plain.0/run.json').read_text())
    assert state['versions']['processor'] == 'one'
    root = Path(__file__).parents[1]
    if (root / '.git').exists():
        words = ['git', '-C', str(root), 'log', '-1', '--format=%H', '--', 'timm_debias']
        commit = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
        assert f'(commit {commit[:12]}' in state['versions']['timm_debias']


def test_torchrun_for_several_processes(tmp_path):
    assert [command[-2:] for command in runner._commands(tmp_path, 1)] == [['train', 'validate']]
    several = runner._commands(tmp_path, 8)
    assert [command[-1] for command in several] == ['train', 'validate']
    assert all('torch.distributed.run' in command and '8' in command for command in several)


@pytest.mark.parametrize('finishes', [True, False])
def test_a_run_of_another_process_is_waited_for(launch, finishes):
    """The others go on meanwhile; it is run here only where the other process has not finished it."""

    def other_process():
        with locked(launch.folder / 'plain.0/.lock') as descriptor:
            taken.set()
            while not (launch.folder / 'plain.3/seconds.json').exists():
                time.sleep(0.01)
            if finishes:
                run = runs()[0]
                state = {'train': run.train, 'validate': run.validate, 'status': 'finished'}
                state |= {'seconds': {}, 'versions': {}}
                (launch.folder / 'plain.0/run.json').write_text(json.dumps(state))
            assert descriptor is not None

    taken = threading.Event()
    thread = threading.Thread(target=other_process)
    thread.start()
    taken.wait()
    assert set(run_all(runs(), launch).values()) == {'finished'}
    thread.join()
    assert starts(launch).get('plain.0', 0) == (0 if finishes else 1)


def test_an_interrupt_ends_the_processes(launch, monkeypatch):
    """The runs that were going on are neither failed nor finished."""
    monkeypatch.setattr(runner, '_commands', lambda folder, processes: [[sys.executable, '-c', WAIT]])

    def interrupt():
        wait_until_both_run(launch)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # A worker of pytest-xdist ignores it.
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_all(runs(), launch)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(statuses(launch)) == ['missing', 'missing', 'started', 'started']


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_processes(launch, monkeypatch, number):
    """As Slurm sends it: the runs save, which a second signal does not cut short, and can be gone on with."""
    script = f'import pathlib, time; {WAIT}; time.sleep(0.5); pathlib.Path(sys.argv[1], "saved").touch()'
    monkeypatch.setattr(runner, '_commands', lambda folder, processes: [[sys.executable, '-c', script, str(folder)]])

    def send():
        wait_until_both_run(launch)
        for _ in range(2):
            signal.pthread_kill(threading.main_thread().ident, number)
            time.sleep(0.2)

    before = signal.getsignal(number)
    threading.Thread(target=send).start()
    with pytest.raises(Stopped) as stopped:
        run_all(runs(), launch)
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert len(list(launch.folder.glob('*/saved'))) == 2
    assert sorted(statuses(launch)) == ['missing', 'missing', 'started', 'started']


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr('fcntl.flock', flock)
    with (
        pytest.raises(DebiasError, match=r'\.lock cannot be locked \(No locks available\)'),
        locked(tmp_path / '.lock'),
    ):
        pass


def test_a_killed_parent_leaves_no_process(tmp_path):
    """The worker ends when the pipe from its parent does, and holds the lock of the run until then."""
    script = (
        'import subprocess, sys; from pathlib import Path; from timm_debias.study.lock import locked\n'
        f'with locked(Path({str(tmp_path)!r}) / ".lock") as descriptor:\n'
        f'    words = [sys.executable, "-c", {WAIT!r}]\n'
        '    child = subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=[descriptor])\n'
        '    child.wait()\n'
    )
    parent = subprocess.Popen([sys.executable, '-c', script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == 'ready\n'
    with locked(tmp_path / '.lock') as descriptor:
        assert descriptor is None
    parent.kill()
    parent.wait()
    with locked(tmp_path / '.lock', wait=True) as descriptor:  # Waits for ever where the child does not end.
        assert descriptor is not None
