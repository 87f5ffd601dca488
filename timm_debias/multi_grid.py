"""Multi-grid: most stylised images are smaller than the clean ones, in a cycle, so that they cost about half."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .errors import DebiasError


@dataclass(frozen=True)
class MultiGrid:
    """Says at which size an update stylises (`size`), and shrinks images to it (`shrink`).

    The side of the images is divided by √2 on even updates of an epoch, and by √2 once more in the first half of each
    stage of the learning rate, as the code of Li et al. (ICLR 2021) does it: 112, 158 and 224 pixels of 224, with 0.56
    of the pixels on average.

    Args:
        stage_ends: Epochs at which the stages of the learning rate end, ascending; the last is the number of epochs.
        min_size: Smallest side in pixels; no limit beyond half the image's side where None.

    Raises:
        DebiasError: no stages, or ones that do not ascend.
    """

    stage_ends: tuple[float, ...]
    min_size: int | None = None

    def __post_init__(self) -> None:
        starts = (0, *self.stage_ends[:-1])
        if not self.stage_ends or any(start >= end for start, end in zip(starts, self.stage_ends, strict=True)):
            raise DebiasError(f'stages of the learning rate end at {self.stage_ends}: expected ascending epochs')

    def size(self, image_size: tuple[int, int], epoch: int, update: int) -> tuple[int, int]:
        """Return height and width in pixels of the stylised images of an update.

        Args:
            image_size: Height and width of the clean images.
            epoch: Number of the epoch.
            update: Number of the update in its epoch, both from 0.

        Raises:
            DebiasError: images smaller than `min_size`.
        """
        divisions = (update % 2 == 0) + self._in_first_half(epoch)
        height, width = (self._side(side, divisions) for side in image_size)
        return height, width

    def sizes(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the sizes that occur, ascending."""
        height, width = image_size
        return sorted({(self._side(height, divisions), self._side(width, divisions)) for divisions in (0, 1, 2)})

    @staticmethod
    def shrink(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return `images` [B, C, H, W] at `size`, by nearest neighbours."""
        return images if images.shape[-2:] == size else F.interpolate(images, size=size)

    def _side(self, side: float, divisions: int) -> int:
        if self.min_size is not None and self.min_size > side:
            raise DebiasError(f'multi-grid: the smallest size {self.min_size} is above that of the images, {side}')
        for _ in range(divisions):
            side /= 2**0.5
        return max(int(side + 0.5), self.min_size or 0)

    def _in_first_half(self, epoch: int) -> bool:
        start: float = 0
        for end in self.stage_ends:
            if epoch < end:
                return epoch < (start + end) / 2
            start = end
        return False
