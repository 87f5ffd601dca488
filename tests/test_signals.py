"""Signals to stop: the run saves, exits with a code of that signal, and goes on from there to the same bits."""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from processes import forked, launch
from training_runs import finished, same_training, signal_after

from timm_debias.cli import main
from timm_debias.machine import Machine, init_machine
from timm_debias.training import signals, train
from timm_debias.training.signals import Stopped, StopSignals


@pytest.mark.parametrize(('name', 'code'), [('SIGTERM', 143), ('SIGUSR1', 138), ('SIGINT', 130)])
def test_saves_and_exits(train_command, tmp_path, name, code):
    argv = train_command(tmp_path / 'stopped', '--checkpoint-steps', '0', '--epochs', '2', '--resume', 'auto')

    def run():
        signal_after(6, lambda: os.kill(os.getpid(), getattr(signal, name)))
        return main(argv)

    ended = forked(run, tmp_path / 'log')
    assert ended.code == code, ended.err
    assert f'{name}: saving, then stopping.' in ended.err
    assert 'Traceback' not in ended.err
    assert '--result' not in ended.out
    assert (tmp_path / 'stopped' / 'run' / 'recovery-1-1.pth.tar').exists()
    if name != 'SIGTERM':
        return
    assert 'epoch 1, batch 2' in finished(argv, tmp_path / 'log-resumed').err
    finished(train_command(tmp_path / 'whole', '--checkpoint-steps', '0', '--epochs', '2'), tmp_path / 'log-whole')
    same_training(tmp_path / 'whole' / 'run', tmp_path / 'stopped' / 'run')


def test_whole_job_is_told(train_command, tmp_path):
    """As Slurm does it, the signal goes to data workers too; none may die before the run is saved."""
    argv = train_command(
        tmp_path / 'stopped', '--checkpoint-steps', '0', '--epochs', '2', '--resume', 'auto', '-j', '2'
    )

    def run():
        signal_after(6, lambda: os.killpg(0, signal.SIGTERM))
        return main(argv)

    ended = forked(run, tmp_path / 'log')
    assert ended.code == 143, ended.err
    assert 'Traceback' not in ended.err
    finished(argv, tmp_path / 'log-resumed')
    finished(train_command(tmp_path / 'whole', '--checkpoint-steps', '0', '--epochs', '2'), tmp_path / 'log-whole')
    same_training(tmp_path / 'whole' / 'run', tmp_path / 'stopped' / 'run')


def signal_in_validation(monkeypatch, number):
    """Let this process get a signal as its validation begins."""
    validate = train._validate

    def signalled(run, loaders):
        os.kill(os.getpid(), number)
        return validate(run, loaders)

    monkeypatch.setattr(train, '_validate', signalled)


def test_in_validation(train_command, tmp_path, monkeypatch):
    """The epoch that is trained is not trained again."""
    argv = train_command(tmp_path / 'stopped', '--checkpoint-steps', '0', '--epochs', '2', '--resume', 'auto')

    def run():
        signal_in_validation(monkeypatch, signal.SIGTERM)
        return main(argv)

    ended = forked(run, tmp_path / 'log')
    assert ended.code == 143, ended.err
    resumed = finished(argv, tmp_path / 'log-resumed')
    assert 'epoch 0, batch 5' in resumed.err
    assert 'Train: 0' not in resumed.err
    finished(train_command(tmp_path / 'whole', '--checkpoint-steps', '0', '--epochs', '2'), tmp_path / 'log-whole')
    same_training(tmp_path / 'whole' / 'run', tmp_path / 'stopped' / 'run')


def test_one_of_two_processes_is_told(train_command, tmp_path):
    argv = train_command(
        tmp_path / 'stopped', '-b', '2', '--checkpoint-steps', '0', '--epochs', '2', '--resume', 'auto'
    )

    def run():
        if os.environ['RANK'] == '1':
            signal_after(6, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        return main(argv)

    ended = launch(run, 2, tmp_path / 'log')
    assert [process.code for process in ended] == [138, 138], ended
    finished(argv, tmp_path / 'log-resumed', world_size=2)
    whole = train_command(tmp_path / 'whole', '-b', '2', '--checkpoint-steps', '0', '--epochs', '2')
    finished(whole, tmp_path / 'log-whole', world_size=2)
    same_training(tmp_path / 'whole' / 'run', tmp_path / 'stopped' / 'run')


@pytest.mark.parametrize('told', ['0', '1'])
def test_one_of_two_processes_is_told_in_validation(train_command, tmp_path, monkeypatch, told):
    """As submitit tells the first process alone: none is left alone with what needs both."""
    flags = ['-b', '2', '-vb', '1', '--checkpoint-steps', '0', '--epochs', '2']
    argv = train_command(tmp_path / 'stopped', *flags, '--resume', 'auto')

    def run():
        if os.environ['RANK'] == told:
            signal_in_validation(monkeypatch, signal.SIGUSR1)
        return main(argv)

    ended = launch(run, 2, tmp_path / 'log')
    assert [process.code for process in ended] == [138, 138], ended
    assert 'epoch 0, batch 5' in finished(argv, tmp_path / 'log-resumed', world_size=2).err
    finished(train_command(tmp_path / 'whole', *flags), tmp_path / 'log-whole', world_size=2)
    same_training(tmp_path / 'whole' / 'run', tmp_path / 'stopped' / 'run')


@pytest.mark.parametrize(('signal_at', 'code', 'seen'), [(None, 0, '01234'), (0, 138, '01'), (4, 138, '01234')])
def test_processes_with_different_numbers_of_batches(tmp_path, signal_at, code, seen):
    """The first has none, the second five and the signal, known a batch later: both end together and stay in step."""

    def run():
        machine = init_machine('cpu')
        stop = StopSignals(machine)
        try:
            with stop.noted():
                for batch in stop.through(range(5 * machine.rank)):
                    print(batch, end='')
                    if batch == signal_at:
                        os.kill(os.getpid(), signal.SIGUSR1)
                assert stop.agreed() is None
                assert stop.agreed() is None
        except Stopped as stopped:
            return stopped.code
        finally:
            torch.distributed.destroy_process_group()

    ended = launch(run, 2, tmp_path / 'log')
    assert [process.code for process in ended] == [code, code], ended
    assert [process.out for process in ended] == ['', seen]


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    stop = StopSignals(Machine(device=None))
    with stop.noted():
        assert signal.getsignal(signal.SIGTERM) != before
        assert stop.agreed() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agreed() == signal.SIGTERM
        with pytest.raises(Stopped, match='SIGTERM'):
            next(stop.through([1]))
    assert signal.getsignal(signal.SIGTERM) is before


def test_second_interrupt_ends_at_once():
    with StopSignals(Machine(device=None)).noted():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_worker_ends_only_when_its_parent_tells(tmp_path):
    """A worker lives through signals of others, and ends at once at its parent's SIGTERM, as multiprocessing sends."""
    context = multiprocessing.get_context('fork')
    ready = context.Event()

    def work():
        signals.init_worker(0)
        ready.set()
        time.sleep(60)

    worker = context.Process(target=work)
    worker.start()
    assert ready.wait(30)
    other = context.Process(target=lambda: [os.kill(worker.pid, n) for n in (15, signal.SIGUSR1, signal.SIGINT)])
    other.start()
    other.join(30)
    worker.join(1)
    assert worker.is_alive()
    worker.terminate()
    worker.join(30)
    assert worker.exitcode == 0
