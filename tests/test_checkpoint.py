"""Checkpoint files: plain timm loads them, damage is found, a full disk harms nothing, old ones go on loading."""

import ctypes
import errno
import lzma
import multiprocessing
import os
import re
import resource
import signal
import subprocess
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from processes import forked
from timm.task import ClassificationTask, resume_task_checkpoint
from timm.utils import CheckpointSaver
from training_runs import finished

from timm_debias.cli import main
from timm_debias.errors import DebiasError
from timm_debias.training import checkpoint
from timm_debias.training.checkpoint import content_hash, newest_intact, read_checkpoint, write_checkpoint

FIXTURE = Path(__file__).parent / 'fixtures' / 'checkpoint_v1.pth.tar.xz'
"""Written by timm-debias before format 2, through timm's CheckpointSaver: after epoch 1 of a run of 2."""


def content(value: float = 1.0, serial: int = 1) -> dict:
    return {
        'state_dict': OrderedDict(weight=torch.full((40, 40), value), count=torch.tensor(3)),
        'args': Namespace(model='x', lr=0.1),
        'optimizer': {'state': {0: {'momentum': torch.full((5,), value, dtype=torch.bfloat16)}}, 'groups': [(1, None)]},
        'timm_debias': {'serial': serial, 'epoch': 0, 'batch': 0},
    }


def test_read_what_was_written(tmp_path, monkeypatch):
    path, synced = tmp_path / 'last.pth.tar', []
    monkeypatch.setattr(checkpoint, 'sync_folder', lambda folder: synced.append((folder, path.exists())))
    write_checkpoint(path, content())
    assert synced == [(tmp_path, True)]
    read = read_checkpoint(path)
    assert torch.equal(read['state_dict']['weight'], torch.ones(40, 40))
    assert read['args'] == Namespace(model='x', lr=0.1)
    assert read['timm_debias']['format'] == 2
    assert list(tmp_path.iterdir()) == [path]


def changed(**changes) -> dict:
    return {**content(), **changes}


def test_hash_sees_every_change():
    variants = [
        content(),
        changed(args=Namespace(model='x', lr=0.10000000000000002)),
        changed(optimizer={'state': {1: content()['optimizer']['state'][0]}, 'groups': [(1, None)]}),
        changed(optimizer={**content()['optimizer'], 'groups': [(1, 0)]}),
        changed(state_dict=OrderedDict(weight=torch.ones(1600), count=torch.tensor(3))),
        changed(state_dict=OrderedDict(weight=torch.ones(40, 40), count=torch.tensor(3, dtype=torch.int32))),
        changed(state_dict=OrderedDict(weight=torch.ones(40, 40).index_put((torch.tensor(7),), torch.tensor(1.0001)))),
        changed(extra=None),
        content(serial=2),
    ]
    assert len({content_hash(variant) for variant in variants}) == len(variants)
    assert content_hash(content()) == content_hash(content())


def test_any_flipped_byte_is_found(tmp_path):
    """A flip anywhere either leaves every value as it was, in the file's padding for example, or is an error."""
    path = tmp_path / 'last.pth.tar'
    write_checkpoint(path, content())
    whole = path.read_bytes()
    found = 0
    for place in range(11, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        try:
            assert content_hash(read_checkpoint(path)) == content_hash(content() | {'timm_debias': {
                'serial': 1, 'epoch': 0, 'batch': 0, 'format': 2}})  # fmt: skip
        except DebiasError:
            found += 1
    assert found > 0.6 * len(range(11, len(whole), 97))


@pytest.mark.parametrize('length', [0, 1, 100, -1])
def test_torn(tmp_path, length):
    path = tmp_path / 'last.pth.tar'
    write_checkpoint(path, content())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DebiasError, match='damaged'):
        read_checkpoint(path)


def test_code_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'executed'),)

    torch.save({'state_dict': Evil()}, tmp_path / 'last.pth.tar')
    with pytest.raises(DebiasError):
        read_checkpoint(tmp_path / 'last.pth.tar')
    with pytest.raises(DebiasError, match='no checkpoint'):
        newest_intact(tmp_path)
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('entry', [3, {}, {'format': 'x'}, {'format': 2, 'serial': 1, 'epoch': 0, 'batch': None}])
def test_entry_that_is_none_of_ours(tmp_path, entry):
    torch.save({'state_dict': {}, 'timm_debias': entry}, tmp_path / 'last.pth.tar')
    with pytest.raises(DebiasError, match='damaged'):
        read_checkpoint(tmp_path / 'last.pth.tar')


def test_later_format(tmp_path):
    entry = {'format': 3, 'serial': 1, 'epoch': 0, 'batch': 0}
    torch.save({'state_dict': {}, 'timm_debias': entry}, tmp_path / 'last.pth.tar')
    with pytest.raises(DebiasError, match='later timm-debias'):
        read_checkpoint(tmp_path / 'last.pth.tar')


def test_newest_is_what_was_written_last(tmp_path):
    assert newest_intact(tmp_path) is None
    for number, name in enumerate(['recovery-7-1', 'checkpoint-9', 'last', 'recovery-0-1']):
        write_checkpoint(tmp_path / f'{name}.pth.tar', content(serial=number + 1))
        path, _ = newest_intact(tmp_path)
        assert path.name == f'{name}.pth.tar'
    # A damaged file is set aside under all its names.
    os.link(tmp_path / 'recovery-0-1.pth.tar', tmp_path / 'model_best.pth.tar')
    os.truncate(tmp_path / 'recovery-0-1.pth.tar', 900)
    path, _ = newest_intact(tmp_path)
    assert path.name == 'last.pth.tar'
    assert {path.name for path in tmp_path.glob('*.damaged')} == {
        'recovery-0-1.pth.tar.damaged', 'model_best.pth.tar.damaged',
    }  # fmt: skip


@pytest.mark.parametrize(
    'error', [OSError(errno.EMFILE, 'Too many open files'), OSError(errno.ESTALE, 'Stale file handle'),
              PermissionError(errno.EACCES, 'Permission denied'), MemoryError()], ids=repr,
)  # fmt: skip
@pytest.mark.parametrize('mmap', [True, False])  # When it is asked for its age, or read.
def test_what_cannot_be_read_now_is_not_damaged(tmp_path, monkeypatch, error, mmap):
    """No older one takes its place, which would lose what it holds, and it keeps its name."""
    for serial, name in enumerate(['checkpoint-0.pth.tar', 'last.pth.tar']):
        write_checkpoint(tmp_path / name, content(serial=serial))
    load = torch.load

    def fail(path, **options):
        if path.name == 'last.pth.tar' and options['mmap'] == mmap:
            raise error
        return load(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, 'load', fail)
        with pytest.raises(DebiasError, match=r'last\.pth\.tar: it cannot be read now'):
            newest_intact(tmp_path)
    path, _ = newest_intact(tmp_path)
    assert path.name == 'last.pth.tar'


def test_one_of_a_later_version_is_not_damaged(tmp_path):
    write_checkpoint(tmp_path / 'checkpoint-0.pth.tar', content())
    later = {'format': 3, 'serial': 2, 'epoch': 0, 'batch': 0}
    torch.save({'state_dict': {}, 'timm_debias': later}, tmp_path / 'last.pth.tar')
    with pytest.raises(DebiasError, match=r'last\.pth\.tar: written by a later timm-debias .*: update it'):
        newest_intact(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {'checkpoint-0.pth.tar', 'last.pth.tar'}


def test_what_is_no_file_is_passed_over(tmp_path):
    (tmp_path / 'folder.pth.tar').mkdir()
    (tmp_path / 'link.pth.tar').symlink_to(tmp_path / 'gone')
    assert newest_intact(tmp_path) is None


def test_plain_timm_loads_it(train_command, tmp_path):
    argv = train_command(tmp_path, '--debias', '--epochs', '1', '--model-ema')
    finished(argv, tmp_path / 'log')
    saved = read_checkpoint(tmp_path / 'run' / 'recovery-0-3.pth.tar')
    for name in ('last', 'recovery-0-3'):
        kwargs = dict(channels=(4, 4, 4, 4), stem_width=4)
        path = tmp_path / 'run' / f'{name}.pth.tar'
        model = timm.create_model('test_resnet', num_classes=3, checkpoint_path=str(path), **kwargs)
    for key, value in model.state_dict().items():
        assert torch.equal(value, saved['state_dict_ema'][key])


def test_timms_script_goes_on_with_it(train_command, tmp_path):
    finished(train_command(tmp_path, '--epochs', '1'), tmp_path / 'log')
    model = timm.create_model('test_resnet', num_classes=3, channels=(4, 4, 4, 4), stem_width=4)
    task = ClassificationTask(model, verbose=False)
    optimizer = timm.optim.create_optimizer_v2(model, 'sgd', lr=0.1, momentum=0.9, weight_decay=2e-5)
    path = tmp_path / 'run' / 'last.pth.tar'
    assert resume_task_checkpoint(task, str(path), optimizer=optimizer, log_info=False) == 1
    assert torch.equal(model.fc.weight, read_checkpoint(path)['state_dict']['fc.weight'])
    assert optimizer.state[model.fc.weight]['momentum_buffer'].abs().max() > 0
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=str(tmp_path / 'run'))
    assert saver.load_state_dict_from_checkpoint(path)
    assert saver.best_epoch == 0


@pytest.fixture
def small_files():
    """Files cannot grow beyond 30 kB in the processes that are started; a checkpoint of the tiny model does."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    return limit


def test_disk_that_takes_no_more(train_command, tmp_path, small_files):
    """The error is one line; everything that was there is intact, nothing is half there, and room lets it go on."""
    argv = train_command(tmp_path, '--epochs', '1', '--resume', 'auto')
    finished(argv, tmp_path / 'log')
    before = {path: path.read_bytes() for path in (tmp_path / 'run').iterdir()}

    def run() -> int:
        small_files()
        return main([*argv, '--epochs', '2'])

    ended = forked(run, tmp_path / 'log-full')
    assert ended.code == 2
    assert 'recovery-1-0.pth.tar cannot be written: File too large' in ended.err.splitlines()[-1]
    assert 'Traceback' not in ended.err
    args, metrics = tmp_path / 'run' / 'args.yaml', tmp_path / 'run' / 'metrics.jsonl'
    assert {path: path.read_bytes() for path in (tmp_path / 'run').iterdir() if path not in (args, metrics)} == {
        path: content for path, content in before.items() if path not in (args, metrics)
    }
    assert metrics.read_bytes().startswith(before[metrics])
    finished([*argv, '--epochs', '2'], tmp_path / 'log-room')


def test_full_disk(train_command, tmp_path):
    """A real disk of 400 kB, where tests may mount one."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    argv = train_command(disk, '--epochs', '3', '--checkpoint-steps', '1')

    def run() -> int:
        new_mounts = 0x20000  # CLONE_NEWNS: what this process mounts, nobody else sees.
        mount = ['mount', '-t', 'tmpfs', '-o', 'size=400k', 'none', str(disk)]
        if ctypes.CDLL(None).unshare(new_mounts) or subprocess.run(mount, capture_output=True).returncode:
            return 77
        code = main(argv)
        for path in (disk / 'run').glob('*.pth.tar'):
            read_checkpoint(path)
        assert not list((disk / 'run').glob('.*'))
        return code

    ended = forked(run, tmp_path / 'log')
    if ended.code == 77:
        pytest.skip('tests may not mount a file system here')
    assert ended.code == 2, ended.err
    assert re.search(r'\S+\.pth\.tar cannot be written: No space left on device', ended.err.splitlines()[-1])


@pytest.fixture
def old(tmp_path) -> Path:
    path = tmp_path / 'old' / 'last.pth.tar'
    path.parent.mkdir()
    path.write_bytes(lzma.decompress(FIXTURE.read_bytes()))
    return path


def test_format_1_goes_on_loading(old, tmp_path):
    flags = ['--dataset', 'shapes_textures', '--train-num-samples', '16', '--val-num-samples', '8', '--img-size', '32']
    flags += ['--model', 'test_resnet', '--model-kwargs', 'channels=(4,4,4,4)', 'stem_width=4', 'avg_down=False']
    flags += ['--num-classes', '8', '--device', 'cpu', '-j', '0', '-b', '8', '--warmup-epochs', '0', '--lr', '0.05']
    flags += ['--debias', '--model-ema', '--output', str(tmp_path), '--experiment', 'old']
    argv = ['train', *flags, '--epochs', '2', '--resume', 'auto']
    finished(argv, tmp_path / 'log')  # Nothing is left to do: what is loaded is what is there.
    saved = torch.load(old, weights_only=False)
    assert 'timm_debias' not in saved
    ended = finished([*argv, '--epochs', '3'], tmp_path / 'log-on')
    assert 'Going on from' in ended.err
    assert 'epoch 2, batch 0' in ended.err
    new = read_checkpoint(old)
    assert new['timm_debias']['format'] == 2
    assert new['saver']['best_epoch'] in (saved['saver']['best_epoch'], 1, 2)
    drift = new['state_dict']['fc.weight'] - saved['state_dict']['fc.weight']
    assert 0 < drift.abs().max() < 0.1


def test_processes_do_not_share_a_temporary_file(tmp_path):
    """Two writers of one name: the file is one of theirs, whole."""

    def write(value: float) -> None:
        for _ in range(20):
            write_checkpoint(tmp_path / 'last.pth.tar', content(value))

    writers = [multiprocessing.get_context('fork').Process(target=write, args=(value,)) for value in (1.0, 2.0)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if (tmp_path / 'last.pth.tar').exists():
            read_checkpoint(tmp_path / 'last.pth.tar')
    assert list(tmp_path.iterdir()) == [tmp_path / 'last.pth.tar']
