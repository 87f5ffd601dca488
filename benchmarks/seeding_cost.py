"""What it costs to seed every image: reading and augmenting with and without, on an image folder.

    python benchmarks/seeding_cost.py --data-dir DATA

Both loaders run in this process, epoch by epoch in turns; the median over the epochs of each is compared.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterable

import timm.data
import torch

from timm_debias.machine import Machine
from timm_debias.training.seeded_loader import SeededLoader


def seconds(batches: Iterable) -> float:
    """Return the CPU time of reading all batches, which other programs on the machine do not change."""
    start = time.process_time()
    for _ in batches:
        pass
    return time.process_time() - start


def build(args: argparse.Namespace) -> tuple[int, Iterable, SeededLoader]:
    """Return the number of images an epoch, timm's loader and ours."""
    loaders = []
    for _ in range(2):
        dataset = timm.data.create_dataset('', root=args.data_dir, split=args.split)
        loader = timm.data.create_loader(
            dataset, (3, args.img_size, args.img_size), args.batch_size, is_training=True, num_workers=0,
            auto_augment=args.aa, device=torch.device('cpu'),
        )  # fmt: skip
        loaders.append(loader)
    plain, seeded = loaders[0], SeededLoader(loaders[1], 0, Machine(torch.device('cpu')))
    return len(seeded) * args.batch_size, plain, seeded


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', required=True)
    parser.add_argument('--split', default='train')
    parser.add_argument('--img-size', type=int, default=224)
    parser.add_argument('-b', '--batch-size', type=int, default=32)
    parser.add_argument('--aa', default=None)
    parser.add_argument('--epochs', type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images, plain, seeded = build(args)
    times: dict[str, list[float]] = {'timm': [], 'seeded': []}
    for epoch in range(args.epochs + 1):
        seeded.set_position(epoch)
        measured = {'timm': seconds(plain), 'seeded': seconds(seeded)}
        for name, value in measured.items() if epoch else ():  # The first fills the disk's cache.
            times[name].append(value)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f'{name}: {1000 * value / images:.3f} ms an image')
    print(f'ratio: {medians["seeded"] / medians["timm"]:.4f} ({images} images, {args.epochs} epochs each)')
    return 0


if __name__ == '__main__':
    sys.exit(main())
