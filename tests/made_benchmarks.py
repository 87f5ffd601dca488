"""Runs `timm-debias make-benchmark` on small drawn images."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from timm_debias import cli
from timm_debias.make_benchmark.source import read_square

CLASSES = ('boat', 'cat', 't-shirt')
SIZES = ('--resize', 40, '--img-size', 32)
FEW = ('--corruptions', 'contrast', 'gaussian_noise', '--workers', 1)
KINDS = [('stylized', ('-b', 4)), ('corrupted', FEW), ('cue-conflict', ('-b', 4, '--per-pair', 2))]


def draw_classes(folder: Path) -> Path:
    """Draw three classes of three images each; returns the folder."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        for index in range(3):
            path = folder / name / f'image{index}.{"png" if index else "jpg"}'
            path.parent.mkdir(parents=True, exist_ok=True)
            tint = np.array([60 * number, 40 * index, 80])
            pixels = (rng.integers(0, 100, (48, 60, 3)) + tint).astype(np.uint8)
            Image.fromarray(pixels).save(path)
    return folder


def run(kind, data, output, *argv) -> int:
    words = ['make-benchmark', kind, '--data-dir', data, '--output', output, *SIZES, *argv]
    return cli.main(list(map(str, words)))


def tree(output: Path) -> dict[str, bytes]:
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob('*') if path.is_file()}


def manifest(output: Path) -> dict:
    return json.loads((output / 'manifest.json').read_text(encoding='utf-8'))


def square(path: Path) -> torch.Tensor:
    pixels = np.array(read_square(path, 40, 32))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float() / 255


class Interrupt:
    """Wraps a function; Ctrl-C at call `after` + 1."""

    def __init__(self, function, after):
        self.function = function
        self.left = after

    def __call__(self, *args):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.function(*args)
