"""Tiny training runs in processes of their own, killed and gone on with, and what they leave compared."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from processes import Ended, launch

from timm_debias.cli import main
from timm_debias.training import epochs
from timm_debias.training.checkpoint import read_checkpoint

COMMON = ['--model', 'test_resnet', '--model-kwargs', 'channels=(4,4,4,4)', 'stem_width=4', '--num-classes', '3']
COMMON += ['--img-size', '32', '--device', 'cpu', '-j', '0', '-b', '4', '-vb', '8', '--epochs', '3']
COMMON += ['--warmup-epochs', '1', '--lr', '0.05', '--checkpoint-steps', '2', '--experiment', 'run']
UPDATES = 3 * 5


def build_images(root: Path) -> None:
    """Write 22 images to train on, so that batches of 4 leave two over, and 7 to validate."""
    generator = np.random.default_rng(0)
    for split, count in (('train', 22), ('val', 7)):
        for number in range(count):
            path = root / split / 'abc'[number % 3] / f'{number}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(path)


def train_command(images: Path, output: Path, *flags: str) -> list[str]:
    """Return the command of a run of 3 epochs with 5 updates each, in the folder `run` below `output`."""
    return ['train', '--data-dir', str(images), *COMMON, '--output', str(output), *flags]


def signal_after(update: int, send: Callable[[], None]) -> None:
    """Let this process call `send` after an update, before a checkpoint of it is written."""
    original, done = epochs.Epochs._after_update, []

    def counted(self, epoch, batch, meters):
        done.append(batch)
        if len(done) == update:
            send()
        original(self, epoch, batch, meters)

    epochs.Epochs._after_update = counted


def killed(argv: list[str], update: int, logs: Path, world_size: int = 1) -> None:
    """Run a command whose processes die of SIGKILL after an update (the last of an epoch not counted)."""

    def run() -> int:
        signal_after(update, lambda: os.kill(os.getpid(), signal.SIGKILL))
        return main(argv)

    assert {ended.code for ended in launch(run, world_size, logs)} == {-signal.SIGKILL}


def finished(argv: list[str], logs: Path, world_size: int = 1) -> Ended:
    first, *others = launch(lambda: main(argv), world_size, logs)
    assert first.code == 0, first.err
    assert all(ended.code == 0 for ended in others), others
    return first


def result(ended: Ended) -> list[dict]:
    return json.loads(ended.out.split('--result\n')[1])


def same(first, second, path='') -> None:
    """Compare two checkpoints, value by value and bit by bit."""
    assert type(first) is type(second), path
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, path
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            same(first[key], second[key], f'{path}/{key}')
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            same(one, other, f'{path}/{number}')
    else:
        assert first == second, path


def same_runs(whole: Path, resumed: Path) -> None:
    """Compare what two runs have left."""
    assert {path.name for path in whole.iterdir()} == {path.name for path in resumed.iterdir()}
    assert (whole / 'summary.csv').read_text() == (resumed / 'summary.csv').read_text()
    assert metrics(whole) == metrics(resumed)
    for path in whole.glob('*.pth.tar'):
        first, second = read_checkpoint(path), read_checkpoint(resumed / path.name)
        for content in (first, second):
            content['args'] = None  # Where the run writes, and that it goes on.
            content['timm_debias']['sha256'] = ''
        same(first, second, path.name)


def metrics(folder: Path) -> list[dict]:
    """Return the rows of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    timed = ('images_per_second', 'stylizer_share')
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def same_training(first: Path, second: Path) -> None:
    """Compare the epochs of two runs that have not saved as often."""
    assert (first / 'summary.csv').read_text() == (second / 'summary.csv').read_text()
    assert metrics(first) == metrics(second)
    for path in sorted(first.glob('*.pth.tar')):
        if path.name.startswith('recovery'):
            continue
        contents = [read_checkpoint(folder / path.name) for folder in (first, second)]
        for key in ('state_dict', 'optimizer', 'epoch'):
            same(*(content[key] for content in contents), f'{path.name}/{key}')
        same(*(content['timm_debias']['processes'] for content in contents), path.name)
