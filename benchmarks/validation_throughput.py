"""How fast `validate.py --benchmarks` is, as two ratios of throughput, each measured in turns in one run.

    python benchmarks/validation_throughput.py --data-dir PHOTOGRAPHS --repeats 5

`bare`: a ResNet-50 on photographs, decoded, resized and cropped by data workers, against the same model on the same
images as tensors in memory. `folders`: ImageNet-C in miniature, 95 folders of 50 images, through one pool of workers
and a tiny model, against a loop that opens a data set and a loader for each folder, as the reference implementation
does. Both sides count from the listing of the folders to the last result. Weights are random. Workers decode on the
same cores that the model runs on: with all cores given to the model (`--threads`), the first ratio has what they take
from it. Prints a table, and as the last line the same as JSON.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from timm_debias.benchmark.loading import draw_photographs
from timm_debias.machine import Machine
from timm_debias.markdown import table_lines
from timm_debias.metrics import ALEXNET_ERRORS, EXTRA_CORRUPTIONS, SEVERITIES
from timm_debias.validation.benchmarks import Setting, get_benchmark
from timm_debias.validation.benchmarks.classes import imagenet_classes
from timm_debias.validation.config import (
    SuiteConfig,
    ValidateConfig,
    ValidateDataConfig,
    ValidateModelConfig,
    ValidateRunConfig,
)
from timm_debias.validation.loading import preprocessing
from timm_debias.validation.measure import Task, measure

IMAGES_OF_FOLDER = 50
INPUT = {
    'input_size': (3, 224, 224),
    'interpolation': 'bicubic',
    'mean': (0.485, 0.456, 0.406),
    'std': (0.229, 0.224, 0.225),
    'crop_pct': 0.875,
    'crop_mode': 'center',
}


def get_args_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', help='folder of JPEG photographs, at any depth; drawn by code if not given')
    parser.add_argument('--ratios', nargs='+', choices=['bare', 'folders'], default=['bare', 'folders'])
    parser.add_argument('--images', type=int, default=256, help='photographs for the ResNet-50')
    parser.add_argument('--repeats', type=int, default=5, help='times that each side is measured, in turns')
    parser.add_argument('-b', '--batch-size', type=int, default=32)
    parser.add_argument('-j', '--workers', type=int, default=2, help='data workers of both sides')
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='CPU threads of the model')
    return parser


def find_photographs(folder: str, number: int) -> list[Path]:
    """Return the first JPEGs of a folder."""
    paths = sorted(path for path in Path(folder).rglob('*') if path.suffix.lower() in ('.jpg', '.jpeg'))[:number]
    if len(paths) < number:
        raise SystemExit(f'--data-dir {folder} has {len(paths)} JPEGs, expected {number} (see --images)')
    return paths


def place_photographs(photographs: list[Path], root: Path) -> None:
    """Link photographs into class folders."""
    for index, path in enumerate(photographs):
        target = root / list(imagenet_classes())[index % 1000] / f'{index:05d}.jpg'
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())


def place_corruptions(photographs: list[Path], root: Path) -> None:
    """Save 224×224 JPEGs and link them into the folder of every corruption and severity."""
    names = []
    for index, path in enumerate(photographs[:IMAGES_OF_FOLDER]):
        names.append(f'{list(imagenet_classes())[index]}/{index:05d}.JPEG')
        target = root / 'saved' / names[-1]
        target.parent.mkdir(parents=True)
        Image.open(path).convert('RGB').resize((224, 224)).save(target, quality=85)
    for corruption in (*ALEXNET_ERRORS, *EXTRA_CORRUPTIONS):
        for severity in SEVERITIES:
            for name in names:
                target = root / 'imagenet-c' / corruption / str(severity) / name
                target.parent.mkdir(parents=True)
                target.symlink_to(root / 'saved' / name)


class Suite:
    """The measuring of a benchmark, as `validate.py` does it once the model is loaded."""

    def __init__(self, args: argparse.Namespace, name: str, root: Path, model: nn.Module) -> None:
        self._name, self._root, self._model = name, root, model
        self._config = ValidateConfig(
            ValidateDataConfig(),
            ValidateModelConfig(),
            ValidateRunConfig(workers=args.workers, batch_size=args.batch_size, device='cpu', log_freq=0),
            SuiteConfig(allow_partial=True),
        )
        self._machine = Machine(torch.device('cpu'))

    def __call__(self) -> int:
        """Measure, and return the number of images."""
        benchmark = get_benchmark(self._name)
        contents = benchmark.contents({self._name: self._root}, Setting(self._config.suite, 224, 42))
        transform, _ = preprocessing(benchmark, INPUT, None)
        tasks = [Task(part, transform) for part in contents.parts]
        results = measure(self._config, self._model, INPUT, tasks, self._machine)
        return sum(result['images'] for _, result in results)


@torch.inference_mode()
def run_bare(model: nn.Module, images: torch.Tensor, batch_size: int) -> int:
    """Run the model on normalised images in memory; returns their number."""
    for batch in images.split(batch_size):
        model(batch)
    return len(images)


@torch.inference_mode()
def run_folders(model: nn.Module, root: Path, args: argparse.Namespace) -> int:
    """Open a data set and a loader for each folder, one after the other; returns the number of images."""
    normalize = transforms.Normalize(INPUT['mean'], INPUT['std'])
    transform = transforms.Compose([transforms.ToTensor(), normalize])
    images = right = 0
    for corruption in (*ALEXNET_ERRORS, *EXTRA_CORRUPTIONS):
        for severity in SEVERITIES:
            dataset = ImageFolder(str(root / corruption / str(severity)), transform)
            for batch, labels in DataLoader(dataset, args.batch_size, num_workers=args.workers):
                right += int((model(batch).argmax(dim=1) == labels).sum())
                images += len(batch)
    return images


def in_turns(suite: Callable[[], int], other: Callable[[], int], repeats: int) -> dict[str, Any]:
    """Measure both sides alternately; returns images per second of each, and ratios of neighbouring turns."""
    rates: dict[str, list[float]] = {'suite': [], 'other': []}
    suite()  # Both sides then have their files in memory.
    for repeat in range(repeats):
        sides = [('suite', suite), ('other', other)]
        for name, side in sides if repeat % 2 else reversed(sides):
            start = time.perf_counter()
            images = side()
            rates[name].append(images / (time.perf_counter() - start))
            print(
                f'turn {repeat + 1} of {repeats}, {name}: {rates[name][-1]:.1f} images/s', file=sys.stderr, flush=True
            )
    ratios = [ours / theirs for ours, theirs in zip(rates['suite'], rates['other'], strict=True)]
    return {**rates, 'ratios': ratios, 'median': statistics.median(ratios)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the ratios that the options ask for."""
    args = get_args_parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        number = max(args.images, IMAGES_OF_FOLDER)
        photographs = (
            find_photographs(args.data_dir, number) if args.data_dir else draw_photographs(folder / 'drawn', number)
        )
        if 'bare' in args.ratios:
            place_photographs(photographs[: args.images], folder / 'val')
            model = timm.create_model('resnet50').eval()
            images = torch.randn(args.images, 3, 224, 224)
            suite = Suite(args, 'imagenet', folder / 'val', model)
            results['bare'] = in_turns(suite, lambda: run_bare(model, images, args.batch_size), args.repeats)
        if 'folders' in args.ratios:
            place_corruptions(photographs, folder)
            tiny = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3 * 7 * 7, 1000)).eval()
            suite = Suite(args, 'imagenet-c', folder / 'imagenet-c', tiny)
            results['folders'] = in_turns(suite, lambda: run_folders(tiny, folder / 'imagenet-c', args), args.repeats)
    report(results, args)


def report(results: dict[str, Any], args: argparse.Namespace) -> None:
    """Print the ratios as a table, then everything as JSON."""
    names = {'bare': 'bare model, tensors in memory', 'folders': 'a loader for each of 95 folders'}
    head = ('suite against', 'suite, images/s', 'other, images/s', 'ratio, median', 'least', 'most')
    rows = []
    for key, result in results.items():
        medians = [f'{statistics.median(result[side]):.1f}' for side in ('suite', 'other')]
        ratios = [f'{value:.3f}' for value in (result['median'], min(result['ratios']), max(result['ratios']))]
        rows.append([names[key], *medians, *ratios])
    print('\n'.join(table_lines(head, rows)))
    settings = {'cores': os.cpu_count(), 'load': os.getloadavg()[0], 'python': platform.python_version(),
                'torch': torch.__version__, **vars(args)}  # fmt: skip
    print(json.dumps({'settings': settings, **results}))


if __name__ == '__main__':
    main()
