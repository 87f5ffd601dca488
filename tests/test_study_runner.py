"""Runs in processes of their own: resume, shards, failures, killed parents. The processes here train nothing."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from timm_debias import DebiasError
from timm_debias.study import runner
from timm_debias.study.grid import Run
from timm_debias.study.lock import locked
from timm_debias.study.runner import Launch, run_all, state_of

WORK = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[1])
with open(folder / 'starts', 'a') as file:
    file.write(os.environ['OMP_NUM_THREADS'] + ' ' + os.environ.get('CUDA_VISIBLE_DEVICES', '-') + chr(10))
if (folder.parent.parent / ('fail-' + folder.name)).exists():
    sys.exit('cannot go on')
(folder / 'seconds.json').write_text(json.dumps({'train': {'wall': 1, 'cpu': 1}}))
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


def test_finished_runs_are_never_repeated(launch):
    assert statuses(launch) == ['missing'] * 4
    assert run_all(runs(2), launch) == {'plain.0': 'finished', 'plain.1': 'finished'}
    assert run_all(runs(), launch) == dict.fromkeys(['plain.0', 'plain.1', 'plain.2', 'plain.3'], 'finished')
    assert starts(launch) == {f'plain.{seed}': 1 for seed in range(4)}
    state = json.loads((launch.folder / 'plain.0/run.json').read_text())
    assert state['seconds'] == {'train': {'wall': 1, 'cpu': 1}}
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


def test_threads_and_gpus(launch, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,6')
    run_all(runs(), launch)
    lines = [path.read_text().split() for path in launch.folder.glob('*/starts')]
    assert {threads for threads, _ in lines} == {'3'}
    assert {gpu for _, gpu in lines} == {'4', '6'}


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
        while len(list(launch.folder.glob('*/log.txt'))) < 2:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # A worker of pytest-xdist ignores it.
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_all(runs(), launch)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(statuses(launch)) == ['missing', 'missing', 'started', 'started']


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
