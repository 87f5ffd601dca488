"""Calibrate the data set `shapes_textures`: plain training, then which cue decides its conflict images.

    python benchmarks/calibrate_shapes_textures.py --model resnet18 --seeds 0 1 2

Plain cross-entropy only: no method of this package takes part. The seed draws the network's first weights, the order
and the augmentation; the data set stays the same. Prints a row per seed and their mean, then the same as JSON.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import create_loader
from timm.utils import random_seed
from torch import nn

from timm_debias.data.shapes_textures import CLASSES, Difficulty, ShapesTextures

COLUMNS = ('validation', 'shape', 'texture', 'neither')


def get_args_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='resnet18', help='any timm model')
    parser.add_argument('--img-size', type=int, default=64, help='pixels, 32 to 224')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='one training run each')
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--lr', type=float, default=1e-3, help='peak learning rate of AdamW')
    parser.add_argument('--weight-decay', type=float, default=0.05)
    parser.add_argument('--scale', type=float, nargs=2, default=(0.6, 1.0), help='area of the random crops')
    parser.add_argument('--ratio', type=float, nargs=2, default=(0.9, 1.1), help='aspect of the random crops')
    parser.add_argument('--train-samples', type=int, help="training images; the data set's own number if absent")
    parser.add_argument('--difficulty', type=json.loads, default={}, help='JSON of fields of Difficulty to change')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of torch')
    return parser


def loader(args: argparse.Namespace, split: str) -> Any:
    """Return timm's loader of a split, with light augmentation for training."""
    train = split == 'train'
    dataset: Any = ShapesTextures(
        split,
        img_size=args.img_size,
        num_samples=args.train_samples if train else None,
        difficulty=dataclasses.replace(Difficulty(), **args.difficulty),
    )
    return create_loader(
        dataset,
        input_size=(3, args.img_size, args.img_size),
        batch_size=args.batch_size,
        is_training=train,
        use_prefetcher=False,
        scale=args.scale,
        ratio=args.ratio,
        color_jitter=0.0,
        crop_pct=1.0,
        num_workers=0,
    )


def train(args: argparse.Namespace) -> nn.Module:
    """Train a plain model with cross-entropy, AdamW and a one-cycle learning rate."""
    model = timm.create_model(args.model, num_classes=len(CLASSES)).to(args.device)
    batches = loader(args, 'train')
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    steps = args.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=args.lr, total_steps=steps, pct_start=0.2)
    model.train()
    for _ in range(args.epochs):
        for images, target in batches:
            loss = F.cross_entropy(model(images.to(args.device)), target.to(args.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def predictions(args: argparse.Namespace, model: nn.Module, split: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield predicted classes [B] and targets, [B] or for `conflict` [B, 2], batch by batch."""
    for images, target in loader(args, split):
        yield model(images.to(args.device)).argmax(dim=1).cpu(), target


def measure(args: argparse.Namespace, model: nn.Module) -> dict[str, float]:
    """Return validation top-1 and the shares of conflict images decided by shape, texture or neither, in percent."""
    correct = torch.cat([output == target for output, target in predictions(args, model, 'validation')])
    decided = torch.cat([output[:, None] == target for output, target in predictions(args, model, 'conflict')])
    shape, texture = (100 * decided.float().mean(dim=0)).tolist()
    top1 = 100 * correct.float().mean().item()
    return dict(zip(COLUMNS, (top1, shape, texture, 100 - shape - texture), strict=True))


def main() -> None:
    """Train once for each seed and print what was measured."""
    args = get_args_parser().parse_args()
    torch.set_num_threads(args.threads)
    print(f'{"seed":>6}' + ''.join(f'{name:>12}' for name in COLUMNS) + f'{"minutes":>12}')
    runs = []
    for seed in args.seeds:
        random_seed(seed)
        start = time.monotonic()
        run = measure(args, train(args))
        runs.append({'seed': seed, **run})
        minutes = (time.monotonic() - start) / 60
        print(f'{seed:>6}' + ''.join(f'{run[name]:12.1f}' for name in COLUMNS) + f'{minutes:12.1f}', flush=True)
    mean = {name: sum(run[name] for run in runs) / len(runs) for name in COLUMNS}
    print(f'{"mean":>6}' + ''.join(f'{mean[name]:12.1f}' for name in COLUMNS))
    difficulty = dataclasses.asdict(dataclasses.replace(Difficulty(), **args.difficulty))
    print(json.dumps({**vars(args), 'difficulty': difficulty, 'runs': runs, 'mean': mean}))


if __name__ == '__main__':
    main()
