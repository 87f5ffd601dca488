"""A day of training in minutes: `python -m tests.faults.long_run` runs 1,000 tiny epochs in one process.

Each epoch trains, validates, writes two checkpoints and removes old ones. What must not grow with their number is the
memory of the process, its open files and threads, and the files in the run's folder.
"""

import argparse
import logging
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import torch
from training_runs import build_images, train_command

from timm_debias.cli import main as timm_debias
from timm_debias.training import epochs


class Usage(NamedTuple):
    """What a process uses at the end of an epoch: memory in MB, and counts."""

    epoch: int
    memory: float
    open_files: int
    threads: int
    files: int


def usage(epoch: int, folder: Path) -> Usage:
    """Measure this process and the run's folder."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    memory = pages * os.sysconf('SC_PAGE_SIZE') / 1e6
    open_files = len(os.listdir('/proc/self/fd'))
    return Usage(epoch, memory, open_files, threading.active_count(), len(list(folder.iterdir())))


def run(folder: Path, count: int, every: int) -> list[Usage]:
    """Train `count` epochs below `folder` and measure after every so many."""
    build_images(folder / 'images')
    argv = train_command(folder / 'images', folder, '--debias', '-b', '22', '--model-ema', '--checkpoint-steps', '1')
    argv += ['--checkpoint-hist', '3', '--epochs', str(count), '--log-interval', '1000']
    measured: list[Usage] = []
    original = epochs.Epochs._epoch

    def epoch_and_measure(self: epochs.Epochs, epoch: int, *arguments: object) -> None:
        original(self, epoch, *arguments)
        if (epoch + 1) % every == 0:
            measured.append(usage(epoch + 1, folder / 'run'))

    epochs.Epochs._epoch = epoch_and_measure
    try:
        code = timm_debias(argv)
    finally:
        epochs.Epochs._epoch = original
    if code:
        raise SystemExit(f'training ends with code {code}')
    return measured


def growth(measured: list[Usage]) -> list[str]:
    """Return what has grown from the second measurement on, the first being warm-up: memory by more than 3 %."""
    first, last = measured[1], measured[-1]
    grown = [] if last.memory < 1.03 * first.memory else [f'memory from {first.memory:.0f} to {last.memory:.0f} MB']
    for name in ('open_files', 'threads', 'files'):
        before, after = getattr(first, name), getattr(last, name)
        grown += [f'{name} from {before} to {after}'] if after > before else []
    return grown


def main(argv: list[str] | None = None) -> int:
    """Run the epochs and print what was used; the exit code is 1 where anything has grown."""
    parser = argparse.ArgumentParser(prog='python -m tests.faults.long_run', description=__doc__)
    parser.add_argument('--epochs', type=int, default=1000)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        logging.disable(logging.INFO)
        measured = run(Path(place), args.epochs, max(args.epochs // 10, 1))
    print('epochs  memory  open files  threads  files of the run')
    for used in measured:
        print(f'{used.epoch:>6}  {used.memory:>3.0f} MB  {used.open_files:>10}  {used.threads:>7}  {used.files:>16}')
    grown = growth(measured)
    print(f'{args.epochs} epochs in {time.monotonic() - start:.0f} s; grown: {", ".join(grown) or "nothing"}')
    return 1 if grown else 0


if __name__ == '__main__':
    sys.exit(main())
