"""What debiased training does on `shapes_textures`, with each stylizer and beside plain training of equal compute.

    python benchmarks/debias_effect.py --output output/effect --seeds 0 1 2 3 4

Trains a model for every method and seed with one recipe (AdamW, one cycle) and measures clean accuracy, which cue
decides the conflict images, and accuracy under noise, blur, low contrast and FGSM. Every run is written at once to
`runs/`, and a second call of the command trains only what is missing. The table, with the differences to plain
training paired by seed, is `effect.md`, a drawing `effect.svg`; the runs are `effect.csv`. Calls for different seeds
may run side by side into one folder; a last call with all of them writes the report. The stylizer of the paper takes
part where its weights are: --methods … adain_vgg19 --vgg19-weights FOLDER.
"""

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import gaussian_blur, to_tensor

import timm_debias
from timm_debias import create_stylizer
from timm_debias.data.shapes_textures import CLASSES, ShapesTextures
from timm_debias.files import atomic_path, write_text
from timm_debias.report import svg
from timm_debias.study.statistics import estimate

MEASURES = ('clean', 'shape', 'texture', 'noise', 'blur', 'contrast', 'fgsm')


@dataclass(frozen=True)
class Method:
    """One way to train."""

    stylizer: str | None = None
    aux_bn: bool = True
    epochs_factor: int = 1
    gamma: float = 0.8
    alpha: float = 0.5


METHODS = {
    'plain': Method(),
    'plain, twice the epochs': Method(epochs_factor=2),
    'adain_lite': Method('adain_lite'),
    'adain_lite, no auxiliary BN': Method('adain_lite', aux_bn=False),
    'adain_lite, alpha 1': Method('adain_lite', alpha=1.0),
    'adain_lite, alpha 1, no auxiliary BN': Method('adain_lite', alpha=1.0, aux_bn=False),
    'band_statistics': Method('band_statistics'),
    'fourier_amplitude': Method('fourier_amplitude'),
    'adain_vgg19': Method('adain_vgg19'),
}
PLAIN = ('plain', 'plain, twice the epochs')
"""What the others are compared with: as many epochs, and as many images seen."""


def get_args_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', default='output/effect', help='folder of results, gone on with if there')
    without_weights = [name for name in METHODS if name != 'adain_vgg19']
    parser.add_argument('--methods', nargs='+', default=without_weights, choices=list(METHODS), metavar='METHOD')
    parser.add_argument('--vgg19-weights', help='folder with the weights of adain_vgg19')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument('--model', default='resnet10t', help='any timm model')
    parser.add_argument('--img-size', type=int, default=64)
    parser.add_argument('--epochs', type=int, default=6)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--lr', type=float, default=2e-3, help='peak learning rate of AdamW')
    parser.add_argument('--train-samples', type=int, default=2400)
    parser.add_argument('--test-samples', type=int, default=1120, help='of validation and of conflict, each')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of torch')
    return parser


def images_of(split: str, args: argparse.Namespace, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images [N, 3, H, W] in [0, 1] of a split, and their labels."""
    data = ShapesTextures(split, args.img_size, num_samples=count, transform=to_tensor)
    images, labels = zip(*(data[index] for index in range(len(data))), strict=True)
    return torch.stack(images), torch.stack([torch.as_tensor(label) for label in labels])


class Normalized(nn.Module):
    """A model that takes images in [0, 1]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model((images - 0.5) / 0.5)


def train(method: Method, seed: int, images: torch.Tensor, labels: torch.Tensor, args: argparse.Namespace) -> nn.Module:
    """Train a model from scratch; the seed draws its weights, the order, the augmentation and the partners."""
    torch.manual_seed(seed)
    model = timm.create_model(args.model, num_classes=len(CLASSES))
    task: Any = timm.task.ClassificationTask(model, nn.CrossEntropyLoss(), verbose=False)
    if method.stylizer is not None:
        weights = args.vgg19_weights if method.stylizer == 'adain_vgg19' else None
        task = timm_debias.create_debias_task(
            model,
            method.stylizer,
            weights,
            gamma=method.gamma,
            alpha=method.alpha,
            aux_bn=method.aux_bn,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
        )
    epochs = args.epochs * method.epochs_factor
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)
    steps = epochs * (len(images) // args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=args.lr, total_steps=steps, pct_start=0.2)
    task.train()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for indices in order.split(args.batch_size)[: len(images) // args.batch_size]:
            batch = shifted(images[indices])
            loss = task((batch - 0.5) / 0.5, labels[indices])['loss']
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return Normalized(model).eval()


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Return the batch flipped or not, and moved by up to a sixteenth of its size."""
    margin = images.shape[-1] // 16
    padded = F.pad(images, (margin,) * 4, mode='replicate')
    top, left = torch.randint(2 * margin + 1, (2,)).tolist()
    moved = padded[..., top : top + images.shape[-2], left : left + images.shape[-1]]
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, moved.flip(-1), moved)


def fgsm(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epsilon: float = 2 / 255) -> torch.Tensor:
    """Return adversarial images: one step of epsilon along the sign of the gradient of the cross-entropy."""
    images = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(images), labels), images)
    return (images + epsilon * gradient.sign()).clamp(0, 1).detach()


def corruptions(size: int) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the corruptions; noise comes from one fixed seed."""
    generator = torch.Generator().manual_seed(0)
    kernel = 2 * (size // 16) + 1
    return {
        'noise': lambda x: (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1),
        'blur': lambda x: gaussian_blur(x, [kernel, kernel], [size / 48, size / 48]),
        'contrast': lambda x: x.mean((1, 2, 3), keepdim=True) + 0.3 * (x - x.mean((1, 2, 3), keepdim=True)),
    }


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return top-1 in percent."""
    with torch.no_grad():
        found = torch.cat([model(batch).argmax(1) for batch in images.split(128)])
    return 100 * (found == labels).float().mean().item()


def measure(model: nn.Module, sets: Mapping[str, tuple[torch.Tensor, torch.Tensor]], size: int) -> dict[str, float]:
    """Return the `MEASURES`, in percent."""
    images, labels = sets['validation']
    conflict, cues = sets['conflict']
    result = {
        'clean': accuracy(model, images, labels),
        'shape': accuracy(model, conflict, cues[:, 0]),
        'texture': accuracy(model, conflict, cues[:, 1]),
    }
    for name, corrupt in corruptions(size).items():
        result[name] = accuracy(model, corrupt(images), labels)
    batches = zip(images.split(128), labels.split(128), strict=True)
    attacked = torch.cat([fgsm(model, batch, target) for batch, target in batches])
    return result | {'fgsm': accuracy(model, attacked, labels)}


def interval(values: Sequence[float]) -> str:
    """Return mean ± half of the 95 % interval."""
    found = estimate(values)
    return f'{found.mean:+.1f}' + (f' ± {found.half_width:.1f}' if found.half_width is not None else '')


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation."""
    return f'{statistics.mean(values):.1f}' + (f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else '')


def report(runs: Mapping[tuple[str, int], dict[str, float]], methods: Sequence[str], seeds: Sequence[int]) -> str:
    """Return the table of means, and of differences paired by seed, in Markdown."""
    head = f'| method | {" | ".join(MEASURES)} |\n| --- |{" --- |" * len(MEASURES)}\n'
    text = f'Percent of images, mean ± standard deviation over {len(seeds)} seeds.\n\n{head}'
    for name in methods:
        cells = [spread([runs[name, seed][key] for seed in seeds]) for key in MEASURES]
        text += f'| {name} | {" | ".join(cells)} |\n'
    for base in [name for name in PLAIN if name in methods]:
        text += f'\nDifference to {base}, paired by seed, mean ± 95 % interval; no ±: the same in all seeds.\n\n{head}'
        for name in [name for name in methods if name != base]:
            cells = [interval([runs[name, seed][key] - runs[base, seed][key] for seed in seeds]) for key in MEASURES]
            text += f'| {name} | {" | ".join(cells)} |\n'
    return text


def draw(runs: Mapping[tuple[str, int], dict[str, float]], methods: Sequence[str], seeds: Sequence[int]) -> str:
    """Return a drawing of what decides the conflict images: means with 95 % intervals, a row for each method."""
    title = 'What decides images of one shape and another texture, % of images'
    axis, looks = svg.Axis(title, 0, 80, 250, 620), {'shape': svg.look(0), 'texture': svg.look(1)}
    bottom = 40 + 34 * len(methods)
    parts = [svg.text(360, 20, title, kind='title'), *svg.key([(looks[cue], cue) for cue in looks], 640, 56)]
    for value in svg.ticks(axis.low, axis.high, 8):
        parts.append(svg.line((axis.at(value), 34), (axis.at(value), bottom), 'grid'))
        parts.append(svg.text(axis.at(value), bottom + 16, f'{value:g}'))
    for row, name in enumerate(methods):
        parts.append(svg.text(240, 61 + 34 * row, name, 'end'))
        for place, (cue, drawn) in enumerate(looks.items()):
            found, y = estimate([runs[name, seed][cue] for seed in seeds]), 52 + 34 * row + 10 * place
            label = f'{name}, {cue}: {found.mean:.1f} ± {found.half_width or 0:.1f}'
            parts.append(svg.line((axis.at(found.low), y), (axis.at(found.high), y), 'interval', drawn.colour))
            parts.append(svg.dot(axis.at(found.mean), y, drawn, label))
    return svg.standalone(svg.document(730, bottom + 26, title, parts))


def run_file(output: Path, name: str, seed: int) -> Path:
    """Return where a run's result lies."""
    return output / 'runs' / f'{name.replace(", ", "-").replace(" ", "_")}-{seed}.json'


def check(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the arguments, before any training."""
    if len(set(args.seeds)) != len(args.seeds):
        return '--seeds: expected different seeds'
    if ('adain_vgg19' in args.methods) != (args.vgg19_weights is not None):
        return 'adain_vgg19 of --methods and --vgg19-weights go together'
    try:
        for name in {METHODS[name].stylizer for name in args.methods} - {None}:
            create_stylizer(name, args.vgg19_weights if name == 'adain_vgg19' else None)
    except timm_debias.DebiasError as error:
        return str(error)
    own = ('output', 'methods', 'vgg19_weights', 'seeds', 'threads')
    settings = {key: value for key, value in vars(args).items() if key not in own}
    path = Path(args.output) / 'settings.json'
    if path.is_file() and json.loads(path.read_text()) != settings:
        return f'{path} holds other settings; choose another --output, or the same flags as before'
    write_text(path, json.dumps(settings, indent=4) + '\n')
    return None


def main() -> int:
    """Train and measure what is missing, then write the report."""
    args = get_args_parser().parse_args()
    if mistake := check(args):
        print(mistake, file=sys.stderr)
        return 2
    torch.set_num_threads(args.threads)
    output = Path(args.output)
    train_images, train_labels = images_of('train', args, args.train_samples)
    sets = {split: images_of(split, args, args.test_samples) for split in ('validation', 'conflict')}
    runs: dict[tuple[str, int], dict[str, float]] = {}
    for seed in args.seeds:
        for name in args.methods:
            path = run_file(output, name, seed)
            if not path.is_file():
                start = time.monotonic()
                model = train(METHODS[name], seed, train_images, train_labels, args)
                result = measure(model, sets, args.img_size)
                write_text(path, json.dumps(result, indent=4) + '\n')
                minutes = (time.monotonic() - start) / 60
                print(f'{name}, seed {seed}: {minutes:.1f} min  {json.dumps(result)}', flush=True)
            runs[name, seed] = json.loads(path.read_text())
    text = report(runs, args.methods, args.seeds)
    write_text(output / 'effect.md', text)
    write_text(output / 'effect.svg', draw(runs, args.methods, args.seeds))
    with atomic_path(output / 'effect.csv') as temporary, open(temporary, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['method', 'seed', *MEASURES])
        for (name, seed), result in runs.items():
            writer.writerow([name, seed, *(round(result[key], 3) for key in MEASURES)])
    print(text, end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
