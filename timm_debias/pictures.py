"""Grids of images as PNG files, for people to look at."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .errors import DebiasError
from .files import atomic_path

_GAP = 4
_LINE = 16
_BACKGROUND = 'white'


def save_grid(
    rows: Sequence[Sequence[torch.Tensor]],
    path: str | os.PathLike,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
) -> None:
    """Write rows of images to a PNG file, atomically.

    Args:
        rows: Images [3, H, W], values outside [0, 1] are clamped; they may differ in size and rows in length.
        path: File to write.
        column_titles: Text above each column.
        row_titles: Text above each row.

    Raises:
        DebiasError: no images.
    """
    if not rows or not rows[0]:
        raise DebiasError(f'{path}: no images for a picture')
    width = max(image.shape[-1] for row in rows for image in row)
    height = max(image.shape[-2] for row in rows for image in row)
    columns = max(len(row) for row in rows)
    title = _LINE if row_titles else 0
    top = _LINE if column_titles else 0
    size = (columns * (width + _GAP) + _GAP, top + len(rows) * (height + title + _GAP) + _GAP)
    canvas = Image.new('RGB', size, _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default()
    for column, text in enumerate(column_titles):
        draw.text((_GAP + column * (width + _GAP), 2), text, fill='black', font=font)
    for number, row in enumerate(rows):
        y = top + _GAP + number * (height + title + _GAP)
        if number < len(row_titles):
            draw.text((_GAP, y), row_titles[number], fill='black', font=font)
        for column, image in enumerate(row):
            canvas.paste(to_picture(image), (_GAP + column * (width + _GAP), y + title))
    with atomic_path(path) as temporary:
        canvas.save(temporary, format='PNG')


def to_picture(image: torch.Tensor) -> Image.Image:
    """Return a float image [3, H, W] as an RGB picture, values outside [0, 1] clamped."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().cpu()
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
