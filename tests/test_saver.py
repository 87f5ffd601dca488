"""Which checkpoints are kept: timm's ranking, and a state that a killed run is brought into by the next."""

import math
import os
import random
from argparse import Namespace

import pytest
import torch
from timm.utils import CheckpointSaver
from torch import nn

from timm_debias.errors import DebiasError
from timm_debias.training import saver as saver_module
from timm_debias.training.checkpoint import read_checkpoint
from timm_debias.training.saver import Saver

ARGS = Namespace(model='x')


def content(epoch: int, batch: int = 0) -> dict:
    return {'state_dict': {'epoch': torch.tensor(epoch)}, 'timm_debias': {'epoch': epoch, 'batch': batch}}


def timms_saver(folder, **options) -> CheckpointSaver:
    model = nn.Linear(1, 1)
    return CheckpointSaver(model, torch.optim.SGD(model.parameters(), 0.1), ARGS, checkpoint_dir=str(folder), **options)


def restored(folder, name: str) -> Saver:
    """Return what goes on from a checkpoint of a folder."""
    saver = Saver(folder, False, 2)
    saver.restore(folder / name, read_checkpoint(folder / name))
    return saver


def names(folder) -> set[str]:
    return {path.name.removesuffix('.pth.tar') for path in folder.iterdir()}


def epoch_in(path) -> int:
    return int(read_checkpoint(path)['state_dict']['epoch'])


@pytest.mark.parametrize('decreasing', [False, True])
@pytest.mark.parametrize('max_history', [1, 3])
def test_keeps_what_timm_keeps(tmp_path, decreasing, max_history):
    """Against timm's saver, on metrics with ties."""
    metrics = random.Random(max_history).choices(range(6), k=15)
    ours, timms = tmp_path / 'ours', tmp_path / 'timms'
    ours.mkdir()
    timms.mkdir()
    theirs = timms_saver(timms, decreasing=decreasing, max_history=max_history)
    saver = Saver(ours, decreasing, max_history)
    for epoch, metric in enumerate(metrics):
        saver.save_epoch(content(epoch), epoch, metric)
        theirs.save_checkpoint(epoch, metric)
        assert names(ours) - {'previous'} == names(timms)
        assert saver.best == (theirs.best_epoch, theirs.best_metric)
        assert saver.ranked == [(os.path.basename(path), metric) for path, metric in theirs.checkpoint_files]
        assert epoch_in(ours / 'last.pth.tar') == epoch
        assert read_checkpoint(ours / 'last.pth.tar')['metric'] == read_checkpoint(timms / 'last.pth.tar')['metric']
        assert epoch_in(ours / 'model_best.pth.tar') == theirs.best_epoch
        if epoch:
            assert epoch_in(ours / 'previous.pth.tar') == epoch - 1


@pytest.mark.parametrize(('decreasing', 'best'), [(False, 2), (True, 5)])
@pytest.mark.parametrize('max_history', [1, 2, 9])
def test_nan_is_the_worst(tmp_path, decreasing, best, max_history):
    """Whenever it comes: first, between others, last."""
    metrics = [math.nan, 2.0, 3.0, math.nan, 1.0, 0.5, math.nan]
    saver = Saver(tmp_path, decreasing, max_history)
    for epoch, metric in enumerate(metrics):
        saver.save_epoch(content(epoch), epoch, metric)
    numbers = [*sorted((1, 2, 4, 5), key=metrics.__getitem__, reverse=not decreasing), 0, 3, 6]
    assert [name for name, _ in saver.ranked] == [f'checkpoint-{number}.pth.tar' for number in numbers[:max_history]]
    assert names(tmp_path) == {'last', 'previous', 'model_best', *(f'checkpoint-{n}' for n in numbers[:max_history])}
    assert epoch_in(tmp_path / 'model_best.pth.tar') == best


def test_two_checkpoints_within_epochs(tmp_path):
    saver = Saver(tmp_path, False, 3)
    for update in (4, 9, 14):
        saver.save_step(content(0, update), 0, update)
    assert names(tmp_path) == {'recovery-0-9', 'recovery-0-14'}
    # Another process goes on: what it removes is what the first would have.
    restored(tmp_path, 'recovery-0-14.pth.tar').save_step(content(1, 4), 1, 4)
    assert names(tmp_path) == {'recovery-0-14', 'recovery-1-4'}
    assert read_checkpoint(tmp_path / 'recovery-1-4.pth.tar')['timm_debias']['serial'] == 4


def test_checkpoint_within_an_epoch_is_written_once(tmp_path):
    """Anew only where its file is gone, or is of a future that the run has gone back from."""
    saver = Saver(tmp_path, False, 2)
    saver.save_epoch(content(0), 0, 1.0)
    path = saver.save_step(content(1, 4), 1, 4)
    saver.save_step(content(2, 4), 1, 4)
    assert epoch_in(path) == 1
    saver.save_step(content(2, 9), 1, 9)
    path.unlink()
    saver.save_step(content(3, 4), 1, 4)
    saver.save_step(content(3, 14), 1, 14)
    assert epoch_in(path) == 3
    restored(tmp_path, 'last.pth.tar').save_step(content(4, 4), 1, 4)
    assert epoch_in(path) == 4


def test_an_epoch_that_is_trained_again_has_its_new_rank(tmp_path):
    saver = Saver(tmp_path, False, 3)
    for epoch, metric in ((0, 1.0), (1, 2.0), (0, 3.0)):
        saver.save_epoch(content(epoch), epoch, metric)
    assert saver.ranked == [('checkpoint-0.pth.tar', 3.0), ('checkpoint-1.pth.tar', 2.0)]


def test_an_epoch_that_falls_out_leaves_no_file_of_the_future_before(tmp_path):
    saver = Saver(tmp_path, False, 2)
    for epoch, metric in ((0, 3.0), (1, 2.0), (2, 5.0)):
        saver.save_epoch(content(epoch), epoch, metric)
    again = restored(tmp_path, 'previous.pth.tar')
    again.save_epoch(content(2), 2, 1.0)
    assert names(tmp_path) == {'last', 'previous', 'checkpoint-0', 'checkpoint-1', 'model_best'}
    assert epoch_in(tmp_path / 'model_best.pth.tar') == 0


def test_the_best_epoch_of_the_future_before_is_not_that_of_the_run(tmp_path):
    saver = Saver(tmp_path, False, 1)
    for epoch, metric in enumerate((3.0, 1.0, 4.0)):
        saver.save_epoch(content(epoch), epoch, metric, is_milestone=epoch == 1)
    again = restored(tmp_path, 'milestone-2.pth.tar')
    again.save_epoch(content(7), 2, 2.0)
    assert epoch_in(tmp_path / 'model_best.pth.tar') == 7
    assert again.best == (2, 2.0)


def test_the_best_epoch_is_known_by_model_best_alone(tmp_path):
    saver = Saver(tmp_path, False, 2)
    for epoch, metric in enumerate((3.0, 1.0)):
        saver.save_epoch(content(epoch), epoch, metric)
    (tmp_path / 'checkpoint-0.pth.tar').unlink()
    restored(tmp_path, 'last.pth.tar').save_epoch(content(2), 2, 2.0)
    assert epoch_in(tmp_path / 'model_best.pth.tar') == 0


def test_a_copy_that_a_run_goes_on_from_is_kept(tmp_path):
    saver = Saver(tmp_path, False, 1)
    for epoch, metric in ((0, 3.0), (1, 2.0)):
        saver.save_epoch(content(epoch), epoch, metric)
    copy = tmp_path / 'checkpoint-1.pth.tar'
    copy.write_bytes((tmp_path / 'last.pth.tar').read_bytes())
    restored(tmp_path, copy.name)
    assert copy.exists()


def test_checkpoints_that_are_gone_have_no_rank(tmp_path):
    saver = Saver(tmp_path, False, 2)
    for epoch in range(2):
        saver.save_epoch(content(epoch), epoch, epoch)
    (tmp_path / 'checkpoint-0.pth.tar').unlink()
    assert restored(tmp_path, 'last.pth.tar').ranked == [('checkpoint-1.pth.tar', 1)]


def test_epochs_of_timm_without_a_metric_have_no_rank(tmp_path):
    theirs = timms_saver(tmp_path)
    for epoch in range(2):
        theirs.save_checkpoint(epoch)
    saver = restored(tmp_path, 'last.pth.tar')
    saver.save_epoch(content(2), 2, 0.5)
    assert saver.ranked == [('checkpoint-2.pth.tar', 0.5)]
    assert names(tmp_path) >= {'checkpoint-0', 'checkpoint-1'}


class KilledError(BaseException):
    """Stands for SIGKILL: nothing but `finally` blocks run after it."""


def kill_at(patch: pytest.MonkeyPatch, stop_at: int) -> None:
    """Let the call number `stop_at` of those that change names raise."""
    calls = []

    def killing(function):
        def wrapped(*args, **kwargs):
            calls.append(function)
            if len(calls) == stop_at:
                raise KilledError
            return function(*args, **kwargs)

        return wrapped

    for name in ('replace', 'link', 'rename'):
        patch.setattr(os, name, killing(getattr(os, name)))
    patch.setattr(Saver, '_remove', killing(Saver._remove))


@pytest.mark.parametrize('metrics', [(1, 3, 2), (3, 1, 2), (1, 2, 3)])
def test_killed_while_it_arranges(tmp_path, metrics, monkeypatch):
    """Stopped before any of the steps that change a name, a save is finished or done again by the next process."""
    whole = tmp_path / 'whole'
    whole.mkdir()
    saver, last_epoch = Saver(whole, False, 2), len(metrics) - 1
    final = content(last_epoch), last_epoch, metrics[-1], True
    for epoch, metric in enumerate(metrics[:-1]):
        saver.save_epoch(content(epoch), epoch, metric)
    saver.save_epoch(*final)
    killed = 0
    for stop_at in range(1, 50):
        folder = tmp_path / str(stop_at)
        folder.mkdir()
        saver = Saver(folder, False, 2)
        for epoch, metric in enumerate(metrics[:-1]):
            saver.save_epoch(content(epoch), epoch, metric)
        with monkeypatch.context() as patch:
            kill_at(patch, stop_at)
            try:
                saver.save_epoch(*final)
                break
            except KilledError:
                killed += 1
        again = restored(folder, 'last.pth.tar')
        if epoch_in(folder / 'last.pth.tar') < last_epoch:
            again.save_epoch(*final)
        assert names(folder) == names(whole), stop_at
        for name in names(whole):
            assert epoch_in(folder / f'{name}.pth.tar') == epoch_in(whole / f'{name}.pth.tar'), (stop_at, name)
    assert killed >= 3


def test_names_that_are_not_ours_are_never_removed(tmp_path):
    """A stranger's checkpoint cannot make the saver delete what it likes."""
    run, victim = tmp_path / 'run', tmp_path / 'precious'
    run.mkdir()
    victim.touch()
    others = ('args.yaml', 'checkpoint-1.pth.tar.kept')
    for name in others:
        (run / name).touch()
    saver = Saver(run, False, 2)
    path = saver.save_step(content(0, 1), 0, 0)
    loaded = read_checkpoint(path)
    loaded['saver'] |= {'dropped': ['../precious', str(victim), *others], 'checkpoint_files': [('../precious', 1)]}
    Saver(run, False, 1).restore(path, loaded)
    assert victim.exists()
    assert all((run / name).exists() for name in others)


def test_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, 'Operation not permitted')

    monkeypatch.setattr(os, 'link', refuse)
    saver = Saver(tmp_path, False, 2)
    for epoch in range(3):
        saver.save_epoch(content(epoch), epoch, epoch)
    assert names(tmp_path) == {'last', 'previous', 'model_best', 'checkpoint-1', 'checkpoint-2'}
    assert epoch_in(tmp_path / 'model_best.pth.tar') == 2


def test_disk_error_is_told(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, 'No space left on device')

    saver = Saver(tmp_path, False, 2)
    monkeypatch.setattr(saver_module.os, 'link', refuse)
    monkeypatch.setattr(saver_module.shutil, 'copyfile', refuse)
    with pytest.raises(DebiasError, match=r'checkpoint-0\.pth\.tar cannot be written: No space left on device'):
        saver.save_epoch(content(0), 0, 1.0)
    assert epoch_in(tmp_path / 'last.pth.tar') == 0
