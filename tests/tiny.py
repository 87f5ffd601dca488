"""The smallest training: an image folder of three classes that differ in colour, and flags for it."""

from pathlib import Path

import numpy as np
from PIL import Image

FLAGS = ['--model', 'test_resnet', '--num-classes', '3', '--img-size', '32', '--device', 'cpu', '-j', '0', '-b', '4']
FLAGS += ['--epochs', '2', '--warmup-epochs', '0', '--lr', '0.01', '--log-interval', '1']


def make_folder(root: Path) -> Path:
    """Write 12 images to train on and 6 to validate."""
    generator = np.random.default_rng(0)
    for split, count in (('train', 4), ('validation', 2)):
        for index, name in enumerate(('blue', 'green', 'red')):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 100, (40, 40, 3))
                pixels[..., index] += 155
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f'{number}.png')
    return root
