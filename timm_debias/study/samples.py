"""A picture of the images that the runs were measured on."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions
from torchvision.transforms.functional import to_tensor

from ..errors import DebiasError
from ..flags import check_values
from ..make_benchmark.source import read_square
from ..pictures import save_grid
from ..validation.main import build_parser as validate_parser
from .config import Study
from .grid import expand, filled

_logger = logging.getLogger(__name__)

_ROWS = 6
_CORRUPTIONS = ('gaussian_noise', 'defocus_blur', 'fog', 'pixelate')
_SEVERITY = 3
_LEAST_SIZE = 112
"""Smaller images are enlarged, for the titles above them."""


def save_samples(study: Study, variables: Mapping[str, str], path: Path) -> None:
    """Write a picture of images of some classes in the tests' folders, where there are any.

    The report of days of training does not wait for it: what cannot be shown is left out, with a warning.

    Args:
        study: Names the folders by `benchmark_dir` of `validate`; those of the first run are shown.
        variables: What `${NAME}` stands for.
        path: PNG file.
    """
    try:
        columns = _columns(study, variables)
        rows = _rows(columns) if columns else []
        if rows:
            save_grid(rows, path, column_titles=[title for title, _ in columns])
            return
        reason = 'the folders in benchmark_dir hold no image that all of them have'
    except (DebiasError, OSError) as error:
        reason = str(error)
    _logger.warning(f'No picture of the tests in the report: {reason}')


def _columns(study: Study, variables: Mapping[str, str]) -> list[tuple[str, Path]]:
    run = expand(study)[0]
    given = {name: value for name, value in run.validate.items() if name == 'benchmark_dir'}
    flags = check_values(filled(given, run.variables | dict(variables)), validate_parser(), 'validate.py')
    items = flags.get('benchmark_dir') or []
    places = {name: Path(folder) for name, _, folder in (item.partition('=') for item in items)}
    columns = []
    if 'folder' in places:
        columns.append(('as it is', places['folder']))
    if 'folder-stylized' in places:
        columns.append(('stylised', places['folder-stylized']))
    if 'folder-c' in places:
        columns += [(name.replace('_', ' '), places['folder-c'] / name / str(_SEVERITY)) for name in _CORRUPTIONS]
    return [(title, folder) for title, folder in columns if folder.is_dir()]


def _rows(columns: Sequence[tuple[str, Path]]) -> list[list[torch.Tensor]]:
    """Return a row for each class, of the first image that all columns have; classes without are left out."""
    found: list[list[Path]] = []
    for folder in sorted(folder for folder in columns[0][1].iterdir() if folder.is_dir()):
        every = [_images(root / folder.name) for _, root in columns]
        stem = next((stem for stem in every[0] if all(stem in images for images in every)), None)
        found += [[images[stem] for images in every]] if stem is not None else []
    if not found:
        return []
    found = found[:_ROWS]
    with Image.open(found[0][-1]) as image:
        size = min(image.size)  # Of made images, for the others are cut to it.
    factor = math.ceil(_LEAST_SIZE / size)
    return [[_enlarged(read_square(file, size, size), factor) for file in row] for row in found]


def _images(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by their names without suffix, for corruptions are JPEGs of PNGs."""
    if not folder.is_dir():
        return {}
    extensions = get_img_extensions(as_set=True)
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in extensions and file.name[0] != '.')
    return {file.stem: file for file in files}


def _enlarged(image: Image.Image, factor: int) -> torch.Tensor:
    return to_tensor(image).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
