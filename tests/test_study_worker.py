"""The process of a run: which stages it does, the time it notes, and how it says that it ended. Nothing is trained."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from timm_debias import DebiasError
from timm_debias.cli import COMMANDS
from timm_debias.study import worker


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """A run whose stages take a second of CPU time each and leave what they are to leave."""
    monkeypatch.setattr(worker, '_end_with_parent', lambda: None)
    monkeypatch.setattr(worker, '_cpu_seconds', lambda: float(len(done(tmp_path))))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    monkeypatch.delenv('RANK', raising=False)
    flags = {'checkpoint': str(tmp_path / 'last.pth.tar'), 'results_dir': str(tmp_path / 'results')}
    (tmp_path / 'validate.yaml').write_text(yaml.safe_dump(flags))
    (tmp_path / 'results').mkdir()
    for stage, left in (('train', 'last.pth.tar'), ('validate', 'results/results.json')):
        stand_in(monkeypatch, stage, lambda left=left: (tmp_path / left).touch())
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


def stand_in(monkeypatch, stage: str, work) -> None:
    """Let `work` be done as a stage."""

    def main(argv) -> int:
        with open(Path(argv[1]).parent / 'done.txt', 'a') as file:
            file.write(stage + '\n')
        return work() or 0

    module = type(sys)(f'stand_in_{stage}')
    module.main = main
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(COMMANDS, stage, (module.__name__, ''))


def call(folder: Path) -> int:
    return worker.main([str(folder), 'train', 'validate'])


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def done(folder: Path) -> list[str]:
    path = folder / 'done.txt'
    return path.read_text().split() if path.exists() else []


def test_stages_that_are_done_are_not_repeated(folder):
    assert call(folder) == call(folder) == 0
    assert done(folder) == ['train', 'validate']
    assert not list(folder.glob('exit.*'))


def test_a_stage_whose_output_was_removed_is_done_again(folder):
    """As the error about runs that were not measured alike asks for."""
    call(folder)
    (folder / 'results/results.json').unlink()
    assert call(folder) == 0
    assert done(folder) == ['train', 'validate', 'validate']
    assert read(folder, 'seconds.json')['validate']['cpu'] == 1  # Of the second time alone.


def test_time_adds_up_over_the_parts_of_a_run(folder, monkeypatch):
    def leave():
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        stand_in(patch, 'validate', leave)
        assert call(folder) == 143
        assert 'validate' not in read(folder, 'seconds.json')
        assert read(folder, 'unfinished.json')['validate']['cpu'] == 1
        assert call(folder) == 143
    assert call(folder) == 0
    seconds = read(folder, 'seconds.json')
    assert seconds['validate']['cpu'] == 3
    assert seconds['train']['cpu'] == 1
    assert read(folder, 'unfinished.json') == {}
    assert seconds['train']['processor']


def test_time_of_data_workers_counts():
    before = worker._cpu_seconds()
    burn = 'import time\nwhile time.process_time() < 0.3: pass'
    subprocess.run([sys.executable, '-c', burn], check=True)
    assert 0.2 < worker._cpu_seconds() - before < 5


def test_gpus_are_named(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'H100')
    call(folder)
    assert read(folder, 'seconds.json')['train']['gpu'] == 'H100'


@pytest.mark.parametrize(
    ('error', 'code', 'reason'),
    [
        (DebiasError('no such folder'), 2, 'timm-debias train: error: no such folder'),
        (RuntimeError('out of memory'), 1, 'RuntimeError: out of memory'),
    ],
)
def test_every_process_says_why_it_ended(folder, monkeypatch, capsys, error, code, reason):
    def fail():
        raise error

    monkeypatch.setenv('RANK', '3')
    stand_in(monkeypatch, 'train', fail)
    assert call(folder) == code
    told = read(folder, 'exit.3.json')
    assert (told['code'], told['error']) == (code, reason)
    assert reason in capsys.readouterr().err
    assert not (folder / 'seconds.json').exists()


def test_time_of_a_stage_that_a_signal_ends_is_noted(folder, monkeypatch):
    """Measuring has no handlers of its own."""
    stand_in(monkeypatch, 'train', lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert call(folder) == 143
    assert read(folder, 'unfinished.json')['train']['cpu'] == 1
    assert read(folder, 'exit.0.json')['code'] == 143
