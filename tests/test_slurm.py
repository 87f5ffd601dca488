"""Jobs by submitit: what is asked of Slurm, and a job that is preempted and goes on, by submitit's local executor."""

import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from training_runs import finished, same_training, train_command

from timm_debias.cli import main

RUN = ['--model', 'test_resnet', '--data-dir', 'data', '--experiment', 'a', '--resume', 'auto']


@pytest.fixture
def submitit(monkeypatch):
    """A stand-in for the package, which notes what it is asked for."""
    module = types.ModuleType('submitit')
    module.__spec__ = importlib.machinery.ModuleSpec('submitit', None)
    failure = type('FailedJobError', (Exception,), {})
    module.core = types.SimpleNamespace(utils=types.SimpleNamespace(FailedJobError=failure))
    module.asked = {}

    class AutoExecutor:
        def __init__(self, folder, **options):
            module.asked |= {'folder': folder, **options}

        def update_parameters(self, **parameters):
            module.asked |= parameters

        def submit(self, function):
            if module.asked['nodes'] > 100:
                raise failure('sbatch: error: Node count\nspecification invalid')
            module.asked['argv'] = function.argv
            return types.SimpleNamespace(job_id='17', paths=types.SimpleNamespace(stdout=Path('17.out')))

    module.AutoExecutor = AutoExecutor
    monkeypatch.setitem(sys.modules, 'submitit', module)
    return module


def test_what_is_asked_for(submitit, capsys):
    job = ['--nodes', '4', '--gpus-per-node', '8', '--hours', '1.5', '--partition', 'p', '--logs', 'logs']
    assert main(['submit', *job, *RUN]) == 0
    assert 'Job 17' in capsys.readouterr().out
    assert submitit.asked['argv'] == RUN
    assert (submitit.asked['nodes'], submitit.asked['tasks_per_node'], submitit.asked['timeout_min']) == (4, 8, 90)
    assert (submitit.asked['slurm_partition'], submitit.asked['folder']) == ('p', Path('logs'))
    assert 'slurm_account' not in submitit.asked
    assert submitit.asked['cluster'] == 'slurm'


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['--node', '4', *RUN], "Did you mean '--nodes'"),
        (['--partion', 'p', *RUN], "Did you mean '--partition'"),
        ([*RUN, '--batchsize', '4'], "'--batch-size'"),
        (RUN[:-2], '--resume auto'),
        (RUN[:4] + RUN[6:], '--experiment'),
        ([*RUN, '--opt', 'sdg'], "'sgd'"),
        (['--nodes', '101', *RUN], 'Node count specification invalid'),
        (['--cluster', 'slrum', *RUN], 'slurm'),
        (['--nodes', '0', *RUN], '--nodes is 0; expected 1 or more'),
        (['--cpus-per-task', '-1', *RUN], '--cpus-per-task is -1; expected 1'),
        (['--gpus-per-node', '-1', *RUN], '--gpus-per-node is -1; expected 0'),
        (['--mem-gb', '0', *RUN], '--mem-gb is 0; expected more than 0'),
        (['--hours', '0.01', *RUN], '--hours is 0.01; expected 0.07 or more'),
    ],
)
def test_mistakes(submitit, capsys, argv, message):
    assert main(['submit', *argv]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert 'argv' not in submitit.asked


def test_without_the_package(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None if name == 'submitit' else find(name))
    assert main(['submit', *RUN]) == 2
    assert "pip install 'timm-debias[slurm]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_preempted_job_goes_on(training_images, tmp_path, monkeypatch):
    """submitit's signal for its first process: both processes save, start again, and end in the same bits."""
    submitit = pytest.importorskip('submitit')
    from timm_debias.slurm import Training

    flags = ['-b', '2', '--epochs', '12']  # Long enough for a signal to come in time.
    whole = train_command(training_images, tmp_path / 'whole', *flags)
    finished(whole, tmp_path / 'log', world_size=2)
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(filter(None, sys.path)))
    _, *argv = train_command(training_images, tmp_path / 'job', *flags, '--resume', 'auto')
    executor = submitit.LocalExecutor(tmp_path / 'jobs')
    executor.update_parameters(tasks_per_node=2, timeout_min=5)
    job = executor.submit(Training(argv))
    wait_for(tmp_path / 'job' / 'run' / 'recovery-0-1.pth.tar')
    os.kill(first_child(int(job.job_id)), signal.SIGUSR2)
    error = job.exception()
    logs = ''.join(path.read_text() for path in sorted((tmp_path / 'jobs').glob('*_log.err')))
    assert error is None, f'{error}\n{logs}'
    assert job.results() == [0, 0]
    assert 'SIGUSR1: saving, then stopping.' in logs
    assert 'Going on from' in logs
    same_training(tmp_path / 'whole' / 'run', tmp_path / 'job' / 'run')


def first_child(number: int) -> int:
    return int(Path(f'/proc/{number}/task/{number}/children').read_text().split()[0])


def wait_for(path: Path) -> None:
    end = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize('call', ['waitid', 'wait'])
def test_a_signal_when_training_has_just_ended(monkeypatch, call):
    """Before its process is reaped and after: no other process gets the signal."""
    helpers = pytest.importorskip('submitit.helpers')
    from timm_debias.slurm import Training

    monkeypatch.setattr(helpers, 'TorchDistributedEnvironment', lambda: types.SimpleNamespace(export=lambda **_: None))
    monkeypatch.setattr('sys.executable', '/bin/true')
    training, submitted = Training(['--lr', '1']), []
    place = {'waitid': os, 'wait': subprocess.Popen}[call]
    function = getattr(place, call)

    def then_signal(*args):
        found = function(*args)
        monkeypatch.setattr(place, call, function)
        submitted.append(training.checkpoint())
        return found

    monkeypatch.setattr(place, call, then_signal)
    assert training() == 0
    assert submitted[0].function.argv == ['--lr', '1']
