"""What is killed: commands that can go on where they stopped, and how their results are compared.

A new command that writes files and goes on after a crash belongs into `operations`.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from training_runs import build_images, same_runs, train_command

from timm_debias.training.checkpoint import read_checkpoint
from timm_debias.validation.benchmarks.classes import subset_classes

SAVING = ('timm_debias.training.saver:Saver.save_epoch', 'timm_debias.training.saver:Saver.save_step')


@dataclass(frozen=True)
class Operation:
    """A command that is killed and called again.

    Attributes:
        name: For the report.
        command: Its arguments, given the folder it writes to; the same for the first call and for those that go on.
        compare: Raises AssertionError where two finished folders differ.
        moments: Kills at random moments.
        calls: Kills at random calls inside `places`.
        places: Functions that write files, as `module:name`.
        world_size: Number of processes.
    """

    name: str
    command: Callable[[Path], list[str]]
    compare: Callable[[Path, Path], None]
    moments: int
    calls: int = 0
    places: tuple[str, ...] = ()
    world_size: int = 1


def operations(inputs: Path) -> list[Operation]:
    """Write the inputs of all commands into a folder and return the commands."""
    images, benchmarks, model = inputs / 'images', inputs / 'benchmarks', inputs / 'model.pth'
    build_images(images)
    build_benchmarks(benchmarks)
    torch.manual_seed(0)
    torch.save(timm.create_model('test_resnet').state_dict(), model)

    def train(*flags: str) -> Callable[[Path], list[str]]:
        return lambda folder: train_command(
            images, folder, '--debias', '--checkpoint-hist', '2', '--resume', 'auto', *flags
        )

    def make(*arguments: str) -> Callable[[Path], list[str]]:
        common = ['--data-dir', str(images), '--split', 'train', '--img-size', '32', '--resize', '36']
        return lambda folder: ['make-benchmark', *arguments, *common, '--workers', '1', '--output', str(folder)]

    def validate(folder: Path) -> list[str]:
        flags = ['--model', 'test_resnet', '--device', 'cpu', '-j', '0', '--img-size', '32', '-b', '4']
        flags += ['--allow-partial', '--checkpoint', str(model), '--data-root', str(benchmarks)]
        flags += ['--benchmarks', 'imagenet-a,imagenet-r,imagenet-sketch', '--resume']
        return ['validate', *flags, '--results-dir', str(folder)]

    def convert(folder: Path) -> list[str]:
        return ['convert', str(model), '--arch', 'test_resnet', '--overwrite', '--out', str(folder / 'model')]

    corrupt = ('corrupted', '--corruptions', 'gaussian_noise', 'contrast', 'jpeg_compression')
    return [
        Operation('training', train('--model-ema'), same_runs_below, 14, 14, SAVING),
        Operation('training, 2 workers', train('-j', '2'), same_runs_below, 4),
        Operation('training, 2 processes', train('-b', '2'), same_runs_below, 8, world_size=2),
        Operation('validation', validate, same_files, 6, 6, ('timm_debias.validation.results:write_text',)),
        Operation('conversion', convert, same_files, 4, 4, ('timm_debias.weights.convert:write_folder',)),
        Operation('data set, corrupted', make(*corrupt), same_files, 6),
        Operation('data set, stylised', make('stylized', '-b', '4'), same_files, 6),
    ]


def build_benchmarks(root: Path) -> None:
    """Write a few random pictures in the layouts of ImageNet-A, -R and -Sketch."""
    generator = np.random.default_rng(1)
    layouts = {'imagenet-a': 'a', 'imagenet-r': 'r', 'imagenet-sketch': 'a'}
    for folder, subset in layouts.items():
        for wnid in list(subset_classes(subset))[:4]:
            path = root / folder / wnid / '1.jpg'
            path.parent.mkdir(parents=True)
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)


def same_runs_below(first: Path, second: Path) -> None:
    """Compare the runs of two output folders."""
    same_runs(first / 'run', second / 'run')


def same_files(first: Path, second: Path) -> None:
    """Compare two folders byte by byte."""
    contents = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}
        for folder in (first, second)
    ]
    assert contents[0].keys() == contents[1].keys(), contents[0].keys() ^ contents[1].keys()
    for name, content in contents[0].items():
        assert content == contents[1][name], name


def half_written(folder: Path) -> Iterator[str]:
    """Yield the files that have their final names and are not whole."""
    for path in sorted(folder.rglob('*')):
        hidden = any(part.startswith('.') for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            try:
                read(path)
            except Exception as error:  # Whatever the reader finds.
                yield f'{path}: {type(error).__name__}: {error}'


def read(path: Path) -> None:
    """Read a file to its end; raises where that cannot be done."""
    if path.name.endswith('.pth.tar'):
        read_checkpoint(path)
    elif path.suffix == '.json':
        json.loads(path.read_text())
    elif path.suffix == '.jsonl':
        *rows, _ = path.read_bytes().split(b'\n')  # What follows the last whole line is cut by the run that goes on.
        for row in rows:
            json.loads(row)
    elif path.suffix == '.yaml':
        assert isinstance(yaml.safe_load(path.read_text()), dict)
    elif path.suffix == '.safetensors':
        load_file(path)
    elif path.suffix == '.csv':
        rows = list(csv.reader(path.open(newline='')))
        assert len({len(row) for row in rows}) == 1
    elif path.suffix in ('.png', '.jpg', '.JPEG'):
        with Image.open(path) as image:
            image.load()
    else:
        assert path.read_bytes()
