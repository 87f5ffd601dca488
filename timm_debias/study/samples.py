"""A picture of the images that the runs were measured on."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from torchvision.transforms.functional import to_tensor

from ..make_benchmark.source import read_square
from ..pictures import save_grid
from .config import Study
from .grid import filled

_ROWS = 6
_CORRUPTIONS = ('gaussian_noise', 'defocus_blur', 'fog', 'pixelate')
_SEVERITY = 3
_LEAST_SIZE = 112
"""Smaller images are enlarged, for the titles above them."""


def save_samples(study: Study, variables: Mapping[str, str], path: Path) -> None:
    """Write a picture of images of some classes in the tests' folders, where there are any.

    Args:
        study: Names the folders by `benchmark_dir` of `validate`, the same for all runs.
        variables: What `${NAME}` stands for.
        path: PNG file.
    """
    places = dict(item.split('=', 1) for item in filled(study.validate.get('benchmark_dir', []), variables))
    columns = []
    if 'folder' in places:
        columns.append(('as it is', Path(places['folder'])))
    if 'folder-stylized' in places:
        columns.append(('stylised', Path(places['folder-stylized'])))
    if 'folder-c' in places:
        root = Path(places['folder-c'])
        columns += [(name.replace('_', ' '), root / name / str(_SEVERITY)) for name in _CORRUPTIONS]
    columns = [(title, folder) for title, folder in columns if folder.is_dir()]
    if not columns:
        return
    classes = sorted(folder.name for folder in columns[0][1].iterdir() if folder.is_dir())[:_ROWS]
    names = [(name, sorted(file.stem for file in (columns[0][1] / name).iterdir())[0]) for name in classes]
    size = _size(columns)
    factor = math.ceil(_LEAST_SIZE / size)
    rows = [
        [
            to_tensor(read_square(_file(folder, *name), size, size))
            .repeat_interleave(factor, 1)
            .repeat_interleave(factor, 2)
            for _, folder in columns
        ]
        for name in names
    ]
    save_grid(rows, path, column_titles=[title for title, _ in columns])


def _size(columns: Sequence[tuple[str, Path]]) -> int:
    """Return the size of made images, for the others are cut to it."""
    file = next(file for file in sorted(columns[-1][1].glob('*/*')) if file.is_file())
    with Image.open(file) as image:
        return min(image.size)


def _file(folder: Path, name: str, stem: str) -> Path:
    return next((folder / name).glob(f'{stem}.*'))
