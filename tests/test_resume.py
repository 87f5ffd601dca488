"""A run that was killed anywhere goes on as if it had not been: the same bits at the end."""

import csv
import os
import random
import re
import signal

import pytest
import torch
from processes import forked
from training_runs import UPDATES, finished, killed, result, same, same_runs

from timm_debias.cli import main
from timm_debias.training import train
from timm_debias.training.checkpoint import read_checkpoint
from timm_debias.training.precision import LossScaler


@pytest.mark.parametrize(
    'flags',
    [
        ['--debias', '--model-ema', '--drop', '0.3'],
        ['--mixup', '0.4', '--cutmix', '1', '--mixup-off-epoch', '2', '-j', '2', '--sched', 'plateau'],
        ['--mixup', '0.4', '--no-prefetcher', '--reprob', '0.5', '--sched-on-updates', '--opt', 'adamw'],
        ['--reprob', '0.8', '--aa', 'rand-m9-n2', '--grad-accum-steps', '2', '--opt', 'lookahead_sgd'],
    ],
    ids=' '.join,
)
def test_killed_anywhere(train_command, tmp_path, flags):
    whole = finished(train_command(tmp_path / 'whole', *flags), tmp_path / 'log')
    updates = 3 * 3 - 3 if '--grad-accum-steps' in flags else UPDATES - 3
    for update in random.Random(str(flags)).sample(range(1, updates + 1), 2):
        output = tmp_path / f'killed-{update}'
        argv = train_command(output, *flags, '--resume', 'auto')
        killed(argv, update, tmp_path / f'log-{update}')
        resumed = finished(argv, tmp_path / f'log-{update}-resumed')
        assert update < 2 or 'Going on from' in resumed.err
        assert result(resumed) == result(whole)
        same_runs(tmp_path / 'whole' / 'run', output / 'run')


@pytest.mark.parametrize('flags', [[], ['--no-ddp-bb']], ids=str)
def test_killed_processes(train_command, tmp_path, flags):
    """Two processes that average gradients; each has random numbers, and with the flag batch norms, of its own."""
    flags = ['--debias', '-b', '2', '--model-ema', '--drop', '0.3', *flags]
    finished(train_command(tmp_path / 'whole', *flags), tmp_path / 'log', world_size=2)
    argv = train_command(tmp_path / 'killed', *flags, '--resume', 'auto')
    killed(argv, 6, tmp_path / 'log-killed', world_size=2)
    finished(argv, tmp_path / 'log-resumed', world_size=2)
    same_runs(tmp_path / 'whole' / 'run', tmp_path / 'killed' / 'run')


@pytest.mark.parametrize('world_size', [1, 2])
def test_killed_without_checkpoints_within_epochs(train_command, tmp_path, world_size):
    """It goes on from the end of the epoch before."""
    flags = ['--debias', '--model-ema', '--checkpoint-steps', '0', '-b', str(4 // world_size)]
    finished(train_command(tmp_path / 'whole', *flags), tmp_path / 'log', world_size)
    argv = train_command(tmp_path / 'killed', *flags, '--resume', 'auto')
    killed(argv, 7, tmp_path / 'log-killed', world_size)
    assert 'epoch 1, batch 0.' in finished(argv, tmp_path / 'log-resumed', world_size).err
    same_runs(tmp_path / 'whole' / 'run', tmp_path / 'killed' / 'run')


def test_killed_with_a_scaled_loss(train_command, tmp_path, monkeypatch):
    """As with float16 on a GPU: the scale, and when it grows next, are those of the run that was killed."""

    def scaler_of(*_):
        scaler = LossScaler(device='cpu')
        scaler._scaler = torch.amp.GradScaler('cpu', init_scale=8.0, growth_interval=4)
        return scaler

    monkeypatch.setattr(train, 'scaler_of', scaler_of)
    finished(train_command(tmp_path / 'whole', '--debias'), tmp_path / 'log')
    argv = train_command(tmp_path / 'killed', '--debias', '--resume', 'auto')
    killed(argv, 6, tmp_path / 'log-killed')
    assert 'Going on from' in finished(argv, tmp_path / 'log-resumed').err
    assert read_checkpoint(tmp_path / 'whole' / 'run' / 'last.pth.tar')['amp_scaler']['scale'] == 8 * 2**3
    same_runs(tmp_path / 'whole' / 'run', tmp_path / 'killed' / 'run')


def test_killed_in_validation(train_command, tmp_path):
    """The epoch that is trained and saved is neither trained nor saved again."""
    flags = ['--epochs', '2', '--checkpoint-steps', '5']
    finished(train_command(tmp_path / 'whole', *flags), tmp_path / 'log')
    argv = train_command(tmp_path / 'killed', *flags, '--resume', 'auto')

    def run() -> int:
        train._validate = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        return main(argv)

    assert forked(run, tmp_path / 'log-killed').code == -signal.SIGKILL
    resumed = finished(argv, tmp_path / 'log-resumed')
    assert 'epoch 0, batch 5' in resumed.err
    assert 'Train: 0' not in resumed.err
    same_runs(tmp_path / 'whole' / 'run', tmp_path / 'killed' / 'run')


def test_number_of_workers_does_not_matter(train_command, tmp_path):
    for workers in '02':
        finished(train_command(tmp_path / workers, '--mixup', '0.4', '-j', workers), tmp_path / f'log-{workers}')
    same_runs(tmp_path / '0' / 'run', tmp_path / '2' / 'run')


def test_resumed_from_an_epoch(train_command, tmp_path):
    """An explicit checkpoint of an epoch in the middle; what came after it is trained again."""
    argv = train_command(tmp_path, '--debias')
    finished(argv, tmp_path / 'log')
    before = {path.name: read_checkpoint(path)['state_dict'] for path in (tmp_path / 'run').glob('*.pth.tar')}
    resumed = finished([*argv, '--resume', str(tmp_path / 'run' / 'checkpoint-0.pth.tar')], tmp_path / 'log-resumed')
    assert 'epoch 1, batch 0' in resumed.err
    assert [row['epoch'] for row in csv.DictReader((tmp_path / 'run' / 'summary.csv').open())] == ['0', '1', '2']
    for name, state in before.items():
        same(state, read_checkpoint(tmp_path / 'run' / name)['state_dict'], name)


def test_resumed_into_the_folder_of_another_run(train_command, tmp_path):
    """Its checkpoints would be replaced, and its summary.csv be of two runs."""
    finished(train_command(tmp_path / 'a', '--epochs', '1'), tmp_path / 'log-a')
    checkpoint = tmp_path / 'a' / 'run' / 'last.pth.tar'
    argv = train_command(tmp_path / 'b', '--epochs', '2')
    finished(argv, tmp_path / 'log-b')
    before = {path: path.read_bytes() for path in (tmp_path / 'b' / 'run').iterdir()}
    ended = forked(lambda: main([*argv, '--resume', str(checkpoint)]), tmp_path / 'log-refused')
    assert ended.code == 2
    assert 'holds a run already' in ended.err.splitlines()[-1]
    assert before == {path: path.read_bytes() for path in (tmp_path / 'b' / 'run').iterdir()}
    finished([*argv, '--experiment', 'new', '--resume', str(checkpoint)], tmp_path / 'log-new')


def test_killed_after_an_epoch_that_is_not_validated(train_command, tmp_path):
    """Its last update is one of those that `--checkpoint-steps` saves."""
    flags = ['--checkpoint-steps', '5', '--val-interval', '2', '--debias', '--sched-on-updates']
    finished(train_command(tmp_path / 'whole', *flags), tmp_path / 'log')
    argv = train_command(tmp_path / 'killed', *flags, '--resume', 'auto')
    killed(argv, 6, tmp_path / 'log-killed')
    assert re.search(r'Going on from \S*recovery-0-4.pth.tar, epoch 0, batch 5', finished(argv, tmp_path / 'new').err)
    same_runs(tmp_path / 'whole' / 'run', tmp_path / 'killed' / 'run')


def test_auto_starts_goes_on_and_ends(train_command, tmp_path):
    """One command for a queue that starts it again and again."""
    argv = train_command(tmp_path, '--resume', 'auto')
    first = finished(argv, tmp_path / 'log')
    assert 'Going on from' not in first.err
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / 'run').glob('*.pth.tar')}
    again = finished(argv, tmp_path / 'log-again')
    assert result(again) == result(first)
    assert files == {path.name: path.stat().st_mtime_ns for path in (tmp_path / 'run').glob('*.pth.tar')}
    longer = finished([*argv, '--epochs', '4'], tmp_path / 'log-longer')
    assert '--epochs 3 → 4' in longer.err
    assert {entry['epoch'] for entry in result(longer)} == {0, 1, 2, 3}


def test_abandoned_future(train_command, tmp_path):
    """Gone back to an epoch with another learning rate and killed, a run goes on with the new one, not the old."""
    argv = train_command(tmp_path)
    finished(argv, tmp_path / 'log')
    changed = [*argv, '--lr', '0.01', '--resume']
    killed([*changed, str(tmp_path / 'run' / 'checkpoint-0.pth.tar')], 3, tmp_path / 'log-killed')
    resumed = finished([*changed, 'auto'], tmp_path / 'log-resumed')
    assert re.search(r'Going on from \S*recovery-1-\d.pth.tar, epoch 1', resumed.err)


@pytest.mark.parametrize('how', ['torn', 'flipped', 'empty'])
def test_damaged_checkpoint(train_command, tmp_path, how):
    argv = train_command(tmp_path, '--checkpoint-steps', '0')
    finished(argv, tmp_path / 'log')
    last = tmp_path / 'run' / 'last.pth.tar'
    expected = read_checkpoint(last)['state_dict']
    content = bytearray(last.read_bytes())
    if how == 'flipped':
        weight = expected['fc.weight'].numpy().tobytes()
        content[content.index(weight)] ^= 1
    last.write_bytes({'torn': content[: len(content) // 2], 'flipped': content, 'empty': b''}[how])
    resumed = finished([*argv, '--resume', 'auto'], tmp_path / 'log-resumed')
    assert re.search(r'last.pth.tar: (damaged|not a checkpoint)', resumed.err)
    assert re.search(r'Going on from \S*checkpoint-1.pth.tar, epoch 2, batch 0', resumed.err)
    same(expected, read_checkpoint(last)['state_dict'])
    assert (tmp_path / 'run' / 'last.pth.tar.damaged').exists()
    for path in (tmp_path / 'run').glob('*.pth.tar'):
        read_checkpoint(path)
    ended = forked(lambda: main([*argv, '--resume', str(last) + '.damaged']), tmp_path / 'log-refused')
    assert ended.code == 2
    assert 'damaged' in ended.err


def test_nothing_intact(train_command, tmp_path):
    argv = train_command(tmp_path, '--resume', 'auto', '--epochs', '1', '--checkpoint-steps', '0')
    finished(argv, tmp_path / 'log')
    for path in (tmp_path / 'run').glob('*.pth.tar'):
        path.write_bytes(b'PK')
    ended = forked(lambda: main(argv), tmp_path / 'log-again')
    assert ended.code == 2
    assert 'no checkpoint in' in ended.err.splitlines()[-1]
    assert 'Traceback' not in ended.err


def test_more_processes(train_command, tmp_path):
    """An elastic job comes back with another number of processes: said aloud, no image of the epoch left out."""
    argv = train_command(tmp_path, '-b', '2', '--checkpoint-steps', '1', '--resume', 'auto')
    killed(argv, 4, tmp_path / 'log-killed', world_size=2)
    resumed = finished(argv, tmp_path / 'log-resumed')
    assert 'is of 2 processes with batches of 2, and these are 1 with 2' in resumed.err
    assert re.search(r'epoch 0, batch 6\.', resumed.err)  # 3 updates of 4 images each are 6 of 2.
