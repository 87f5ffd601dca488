"""What happens to the clean half alone, after the stylised images have been made of it."""

import torch
from timm.data import Mixup
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing

from .errors import DebiasError


class CleanAugment:
    """(images, class indices) -> (images, targets): Mixup or CutMix, then random erasing, in the order of timm.

    Li et al. (ICLR 2021) mix the clean images after stylisation; the stylised ones keep their labels of shape and
    texture. `mixup_enabled = False`, which timm sets after `--mixup-off-epoch`, leaves images unmixed and targets soft.

    Args:
        mixup: timm's Mixup, which does Mixup and CutMix; None for none.
        erasing: timm's random erasing, for normalised images; None for none.
    """

    def __init__(self, mixup: Mixup | None = None, erasing: RandomErasing | None = None) -> None:
        self.mixup = mixup
        self.erasing = erasing
        self.mixup_enabled = True

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Return what the loss takes for unmixed images of class indices `labels` [B].

        With Mixup these are soft targets [B, C], smoothed as Mixup does it; else the indices.
        """
        if self.mixup is None:
            return labels
        return mixup_target(labels, self.mixup.num_classes, 1.0, self.mixup.label_smoothing)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return augmented images and their targets; `images` themselves stay as they are.

        Args:
            images: Normalised images [B, 3, H, W].
            labels: Class indices [B].

        Raises:
            DebiasError: Mixup with an odd number of images.
        """
        if self.mixup is None and self.erasing is None:
            return images, labels
        images = images.clone()
        targets = labels
        if self.mixup is not None:
            if len(images) % 2:
                raise DebiasError(f'Mixup and CutMix mix pairs of images, and a batch has {len(images)}: make it even')
            self.mixup.mixup_enabled = self.mixup_enabled
            images, targets = self.mixup(images, labels)
        if self.erasing is not None:
            images = self.erasing(images)
        return images, targets
