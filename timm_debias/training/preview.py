"""Pictures of what the model is trained on."""

from pathlib import Path

import torch
from timm.task.task import TrainingTask
from torchvision.utils import save_image

from ..files import atomic_path
from ..mix import StyleBankMix
from ..pictures import save_grid
from ..task import DebiasTask
from .checkpoint import unwritable

MAX_ROWS = 8


@torch.no_grad()
def save_preview(task: TrainingTask, folder: Path, images: torch.Tensor, epoch: int, update: int) -> None:
    """Write pictures of a training batch, those of the epoch before overwritten.

    `train-batch-<update>.jpg` holds the batch as timm's train.py shows it; with a debiased task,
    `shape-texture-<update>.png` has a row of content, partner and stylised image for the first images; styles of a
    folder are not shown.

    Args:
        task: The task that trains.
        folder: Folder of the run.
        images: Normalised images [B, 3, H, W].
        epoch: Number of the epoch; picks the partners or styles, so that the picture takes none of the run's random
            numbers.
        update: Number of the update in the epoch.

    Raises:
        DebiasError: a picture cannot be written.
    """
    try:
        with atomic_path(folder / f'train-batch-{update}.jpg') as path:
            save_image(images.float(), path, padding=0, normalize=True)
        if isinstance(task, DebiasTask):
            _save_pairs(task, folder / f'shape-texture-{update}.png', images, epoch)
    except OSError as error:
        raise unwritable(folder, error) from error


def _save_pairs(task: DebiasTask, path: Path, images: torch.Tensor, epoch: int) -> None:
    pixels = task.normalize.inverse(images)
    labels = torch.arange(len(pixels), device=pixels.device)
    drawn = _drawn(task, len(pixels), epoch)
    stylised, partners = task.stylise(images, labels, drawn, task.stylised_size(images))
    columns = [pixels, task.normalize.inverse(stylised)]
    if partners is not None:
        columns.insert(1, pixels[partners])
    rows = [[column[i] for column in columns] for i in range(min(MAX_ROWS, len(pixels)))]
    titles = ['content', 'partner', 'stylised'] if partners is not None else ['content', 'stylised']
    save_grid(rows, path, column_titles=titles)


def _drawn(task: DebiasTask, count: int, epoch: int) -> torch.Tensor:
    """Return partners or styles that differ from epoch to epoch, an image's partner never being itself."""
    if isinstance(task.mix, StyleBankMix):
        return (torch.arange(count) + epoch) % len(task.mix.bank)
    return torch.arange(count).roll(1 + epoch % (count - 1))
