"""Pictures of what the model is trained on."""

from pathlib import Path

import torch
from timm.task.task import TrainingTask
from torchvision.utils import save_image

from ..files import atomic_path
from ..pictures import save_grid
from ..task import DebiasTask

MAX_ROWS = 8


@torch.no_grad()
def save_preview(task: TrainingTask, folder: Path, images: torch.Tensor, epoch: int, update: int) -> None:
    """Write pictures of a training batch, those of the epoch before overwritten.

    `train-batch-<update>.jpg` holds the batch as timm's train.py shows it; with a debiased task,
    `shape-texture-<update>.png` has a row of content, partner and stylised image for the first images.

    Args:
        task: The task that trains.
        folder: Folder of the run.
        images: Normalised images [B, 3, H, W].
        epoch: Number of the epoch; picks the partners, so that the picture takes none of the run's random numbers.
        update: Number of the update in the epoch.
    """
    with atomic_path(folder / f'train-batch-{update}.jpg') as path:
        save_image(images.float(), path, padding=0, normalize=True)
    if not isinstance(task, DebiasTask):
        return
    pixels = task.normalize.inverse(images)
    partners = _rolled(len(pixels), epoch)
    stylised, _ = task.mix.apply(pixels, torch.arange(len(pixels), device=pixels.device), partners)
    rows = [[pixels[i], pixels[partners[i]], stylised[i]] for i in range(min(MAX_ROWS, len(pixels)))]
    save_grid(rows, folder / f'shape-texture-{update}.png', column_titles=['content', 'partner', 'stylised'])


def _rolled(count: int, epoch: int) -> torch.Tensor:
    """Return partners that differ from epoch to epoch and are never an image itself."""
    return torch.arange(count).roll(1 + epoch % (count - 1))
