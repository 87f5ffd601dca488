"""Debiased training on images in tar files, shards and Hugging Face data sets, gone on with after a kill."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from training_runs import finished, killed, same, same_runs

from timm_debias import DebiasError
from timm_debias.data import factory
from timm_debias.training.checkpoint import read_checkpoint

FLAGS = ['--debias', '--val-split', '', '--epochs', '2']


def state(folder: Path) -> dict:
    return read_checkpoint(folder / 'run' / 'last.pth.tar')['state_dict']


def test_tar_of_class_folders(training_images, train_command, tmp_path):
    """A tar file is the folder that was packed: the same images in the same order, the same weights."""
    with tarfile.open(tmp_path / 'train.tar', 'w') as tar:
        tar.add(training_images / 'train', '.')
    finished(train_command(tmp_path / 'folder', *FLAGS), tmp_path / 'log')
    argv = train_command(tmp_path / 'tar', *FLAGS, '--data-dir', str(tmp_path / 'train.tar'), '--resume', 'auto')
    killed(argv, 3, tmp_path / 'log-killed')
    finished(argv, tmp_path / 'log-tar')
    same(state(tmp_path / 'folder'), state(tmp_path / 'tar'))


@pytest.fixture
def shards(training_images, tmp_path) -> Path:
    """The training images as a webdataset of two shards."""
    root = tmp_path / 'shards'
    root.mkdir()
    paths = sorted((training_images / 'train').glob('*/*.png'))
    for shard in range(2):
        with tarfile.open(root / f'train-{shard}.tar', 'w') as tar:
            for path in paths[shard::2]:
                label = str('abc'.index(path.parent.name)).encode()
                for suffix, data in (('png', path.read_bytes()), ('cls', label)):
                    info = tarfile.TarInfo(f'{path.stem}.{suffix}')
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    lengths = [len(paths[shard::2]) for shard in range(2)]
    split = {'name': 'train', 'filenames': ['train-0.tar', 'train-1.tar'], 'shard_lengths': lengths}
    (root / '_info.json').write_text(json.dumps({'splits': {'train': split | {'num_samples': len(paths)}}}))
    return root


@pytest.mark.parametrize(('workers', 'world_size'), [('0', 1), ('2', 1), ('1', 2)])
def test_webdataset(train_command, tmp_path, shards, workers, world_size):
    pytest.importorskip('webdataset')
    flags = [*FLAGS, '--dataset', 'wds/images', '--data-dir', str(shards), '-j', workers, '-b', str(4 // world_size)]
    finished(train_command(tmp_path / 'whole', *flags), tmp_path / 'log', world_size)
    argv = train_command(tmp_path / 'killed', *flags, '--resume', 'auto')
    killed(argv, 7, tmp_path / 'log-killed', world_size)
    finished(argv, tmp_path / 'log-resumed', world_size)
    same_runs(tmp_path / 'whole' / 'run', tmp_path / 'killed' / 'run')


def test_hugging_face(training_images, train_command, tmp_path, monkeypatch):
    pytest.importorskip('datasets')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    flags = [*FLAGS, '--dataset', f'hfds/{training_images}', '--data-dir', str(tmp_path / 'cache')]
    argv = train_command(tmp_path / 'killed', *flags, '--resume', 'auto')
    (tmp_path / 'cache').mkdir()
    finished(train_command(tmp_path / 'whole', *flags), tmp_path / 'log')
    killed(argv, 3, tmp_path / 'log-killed')
    finished(argv, tmp_path / 'log-resumed')
    same_runs(tmp_path / 'whole' / 'run', tmp_path / 'killed' / 'run')


@pytest.mark.parametrize(
    ('name', 'packages'),
    [('wds/x', 'webdataset'), ('hfds/x', 'datasets'), ('hfids/x', 'datasets'),
     ('tfds/x', 'tensorflow_datasets tensorflow')],
)  # fmt: skip
def test_reader_that_is_not_installed(tmp_path, monkeypatch, name, packages):
    monkeypatch.setattr(factory, 'find_spec', lambda package: None)
    with pytest.raises(DebiasError, match=f"data set '{name}' .* pip install {packages}$"):
        factory.create_dataset(name, str(tmp_path), 'train', 32)
