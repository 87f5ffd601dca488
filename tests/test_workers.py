"""Data workers that die or hang: the log says at which image."""

import logging
import os
import signal
import time

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from training_runs import build_images, train_command

from timm_debias import DebiasError
from timm_debias.cli import main
from timm_debias.data import reading
from timm_debias.training import workers as workers_module
from timm_debias.training.workers import Workers


class Numbers(torch.utils.data.Dataset):
    """Numbers, read as slowly or as fatally as asked."""

    def __init__(self, workers, at):
        self.workers = workers
        self.at = at

    def __len__(self):
        return 8

    def __getitem__(self, index):
        with self.workers.reading(index):
            self.at(index)
        return index


def read(workers, at, count=2):
    with workers.watched():
        return [int(number) for number in DataLoader(Numbers(workers, at), batch_size=None, num_workers=count)]


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSEGV])
def test_dead_worker(number):
    """Killed for its memory, or by a fault in a decoder."""

    def at(index):
        if index == 5:
            os.kill(os.getpid(), number)
        time.sleep(0.01)

    with pytest.raises(DebiasError, match=r'^data worker \d+ died while reading /images/5\.png \(') as error:
        read(Workers(2, '/images/{}.png'.format), at)
    assert '-j' in str(error.value)
    assert '\n' not in str(error.value)


def test_dead_between_two_images():
    workers = Workers(1, str)
    with workers.reading(3):
        pass
    with pytest.raises(DebiasError, match='while reading no image'), workers.watched():
        raise RuntimeError(f'DataLoader worker (pid {os.getpid()}) exited unexpectedly with exit code 1.')


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match=r'^shapes$'), Workers(0, str).watched():
        raise RuntimeError('shapes')


@pytest.mark.parametrize('count', [0, 2])
def test_hanging_worker_is_named_once_and_waited_for(caplog, monkeypatch, count):
    monkeypatch.setattr(workers_module, 'HANGING_SECONDS', 0.2)
    with caplog.at_level(logging.WARNING):
        numbers = read(Workers(count, '/images/{}.png'.format), lambda index: time.sleep(index == 4), count)
    assert numbers == list(range(8))
    (message,) = [record.getMessage() for record in caplog.records if 'has been reading' in record.getMessage()]
    assert '/images/4.png for 0 s' in message


def test_in_training(tmp_path, capfd, monkeypatch):
    """One line that names the file, from the worker of a whole run."""
    build_images(tmp_path / 'images')
    original = reading.decode_image

    def decode(file, mode) -> Image.Image:
        if file.name.endswith('a/3.png'):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(file, mode)

    monkeypatch.setattr(reading, 'decode_image', decode)
    monkeypatch.setattr(torch.utils.data._utils, 'MP_STATUS_CHECK_INTERVAL', 0.2)  # Seconds to wait for the dead.
    assert main(train_command(tmp_path / 'images', tmp_path, '-j', '1')) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith('timm-debias train: error: data worker')
    assert str(tmp_path / 'images/train/a/3.png') in last
