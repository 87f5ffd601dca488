"""`validate.py --benchmarks` in several processes: the figures of one, errors of one known to all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from miniatures import SUITE_FLAGS
from processes import launch

from timm_debias.cli import main
from timm_debias.machine import init_machine
from timm_debias.out_of_memory import BatchTooLargeError
from timm_debias.ranks import agree, gather, on_primary
from timm_debias.validation import measure


@pytest.fixture
def command(miniatures, suite_checkpoint):
    """The arguments of validate.py on the miniatures."""

    def arguments(*argv, root=miniatures) -> list[str]:
        fixed = [*SUITE_FLAGS, '--checkpoint', suite_checkpoint, '--data-root', root]
        return ['validate', *map(str, [*fixed, *argv])]

    return arguments


@pytest.fixture(scope='module')
def alone(miniatures, suite_checkpoint, tmp_path_factory):
    """The folder of a run of everything by one process."""
    folder = tmp_path_factory.mktemp('alone') / 'results'
    fixed = [*SUITE_FLAGS, '--checkpoint', suite_checkpoint, '--data-root', miniatures]
    assert main(['validate', *map(str, [*fixed, '-b', 2, '--benchmarks', 'all', '--results-dir', folder])]) == 0
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('world_size', [2, 3])
def test_the_figures_of_one_process(command, alone, tmp_path, world_size):
    argv = command('--benchmarks', 'all', '-b', 2, '--results-dir', tmp_path / 'results')
    first, *others = launch(lambda: main(argv), world_size, tmp_path / 'logs')
    assert [code for code, _, _ in (first, *others)] == [0] * world_size, first
    assert files(tmp_path / 'results') == files(alone)
    assert first[1].endswith(f'Results: {tmp_path / "results"}\n')
    assert all((output, errors) == ('', '') for _, output, errors in others)


def test_resumed_by_more_processes(command, alone, tmp_path):
    folder = tmp_path / 'results'
    assert main(command('--benchmarks', 'imagenet-r,pgd', '-b', 2, '--results-dir', folder)) == 0
    argv = command('--benchmarks', 'all', '-b', 2, '--results-dir', folder, '--resume')
    assert [code for code, _, _ in launch(lambda: main(argv), 2, tmp_path / 'logs')] == [0, 0]
    assert files(folder) == files(alone)


def test_skipped_images_of_every_process(command, miniatures, tmp_path):
    images = tmp_path / 'imagenet-r'
    images.mkdir()
    for path in sorted((miniatures / 'imagenet-r').glob('*/*')):
        target = images / path.parent.name / path.name
        target.parent.mkdir()
        target.write_bytes(path.read_bytes())
    paths = sorted(images.glob('*/*'))
    for torn in (paths[0], paths[4]):
        torn.write_bytes(b'')
    argv = command('--benchmarks', 'imagenet-r', '-b', 1, '--on-error', 'skip', root=tmp_path)
    first, _ = launch(lambda: main(argv), 2, tmp_path / 'logs')
    entry = json.loads(first[1].split('--result\n')[1])['benchmarks']['imagenet-r']
    assert entry['skipped'] == [str(paths[0]), str(paths[4])]
    assert entry['images'] == 3


def test_an_error_of_one_ends_all(command, miniatures, tmp_path):
    """Only the last process reads the torn image, and the first says so."""
    (tmp_path / 'imagenet-a').mkdir()
    for path in sorted((miniatures / 'imagenet-a').glob('*/*')):
        target = tmp_path / 'imagenet-a' / path.parent.name / path.name
        target.parent.mkdir()
        target.write_bytes(path.read_bytes())
    target.write_bytes(b'')
    argv = command('--benchmarks', 'imagenet-a', '-b', 1, root=tmp_path)
    (code, output, errors), (other_code, _, other_errors) = launch(lambda: main(argv), 2, tmp_path / 'logs')
    assert (code, other_code) == (2, 2)
    assert f'unreadable image {target}' in errors.splitlines()[-1]
    assert '--result' not in output
    assert not other_errors


def test_processes_with_different_weights(command, tmp_path):
    torch.save(timm.create_model('test_resnet').state_dict(), tmp_path / 'other.pth')
    argv = [command('--benchmarks', 'imagenet-a'), command('--benchmarks', 'imagenet-a', '--checkpoint',
                                                           tmp_path / 'other.pth')]  # fmt: skip
    first, other = launch(lambda: main(argv[int(os.environ['RANK'])]), 2, tmp_path / 'logs')
    assert (first[0], other[0]) == (2, 2)
    assert 'have different weights' in first[2]


def test_processes_with_different_images(command, miniatures, tmp_path):
    shutil.copytree(miniatures / 'imagenet-a', tmp_path / 'imagenet-a')
    next((tmp_path / 'imagenet-a').glob('*/*.jpg')).unlink()
    argv = [command('--benchmarks', 'imagenet-a', root=root) for root in (miniatures, tmp_path)]
    first, other = launch(lambda: main(argv[int(os.environ['RANK'])]), 2, tmp_path / 'logs')
    assert (first[0], other[0]) == (2, 2)
    assert 'have different images' in first[2]


def test_a_launch_that_is_none(command, monkeypatch, capsys):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '0')
    monkeypatch.delenv('MASTER_ADDR', raising=False)
    assert main(command('--benchmarks', 'imagenet-a')) == 2
    assert 'start them with torchrun' in capsys.readouterr().err


def test_memory_of_one_process_is_short(command, miniatures, tmp_path, monkeypatch):
    predict = measure.predict

    def short(model, batches, *arguments):
        for images, targets in batches:
            if os.environ.get('RANK') == '1' and len(images) > 1:
                raise RuntimeError('CUDA out of memory.')
            yield from predict(model, [(images, targets)], *arguments)

    assert main(command('--benchmarks', 'imagenet-r,imagenet', '-b', 1, '--results-dir', tmp_path / 'one')) == 0
    monkeypatch.setattr(measure, 'predict', short)
    argv = command('--benchmarks', 'imagenet-r,imagenet', '-b', 2, '--results-dir', tmp_path / 'two', '--retry')
    assert [code for code, _, _ in launch(lambda: main(argv), 2, tmp_path / 'logs')] == [0, 0]
    assert files(tmp_path / 'two') == files(tmp_path / 'one')


def test_shared_work(tmp_path):
    def work():
        machine = init_machine('cpu')
        assert gather(machine, lambda: machine.rank) == [0, 1]
        assert agree(machine, lambda: machine.rank) == machine.rank
        assert on_primary(machine, lambda: 7 if machine.rank == 0 else pytest.fail('done twice')) == 7
        with pytest.raises(BatchTooLargeError, match='fog: out of memory with batches of 8'):
            gather(machine, lambda: raise_on(machine, BatchTooLargeError('fog', 8)))
        with pytest.raises(ValueError, match='process 1: ZeroDivisionError: by hand'):
            agree(machine, lambda: raise_on(machine, ZeroDivisionError('by hand')))
        torch.distributed.destroy_process_group()

    def raise_on(machine, error):
        if machine.rank == 1:
            raise error

    codes = [(code, errors) for code, _, errors in launch(work, 2, tmp_path / 'logs')]
    assert [code for code, _ in codes] == [0, 0], codes


@pytest.mark.slow
def test_torchrun(command, tmp_path):
    """The real launcher: results printed once, and a data set of one's own is refused."""
    start = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    start += ['-m', 'timm_debias.cli']
    done = subprocess.run(
        [*start, *command('--benchmarks', 'imagenet-r')], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('--result') == 1
    done = subprocess.run(
        [*start, 'validate', '--model', 'test_resnet', '--device', 'cpu', '--data-dir', '.'],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count('start without torchrun') == 1
