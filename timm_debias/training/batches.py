"""Batches of changing size: how many images they hold, and what their loss weighs."""

from typing import Any

import torch
import torch.distributed as dist

from ..machine import Machine
from .config import TrainConfig


def batch_length(images: Any) -> int:
    """Return the number of images in a batch: [B, C, H, W], or the dict of a NaFlex loader."""
    return len(images['patches']) if isinstance(images, dict) else len(images)


def mean_batch_size(config: TrainConfig, loader: Any) -> float:
    """Return the mean batch size of the schedule of `--train-img-sizes`, else `--batch-size`."""
    if config.sizes.train_img_sizes is None:
        return float(config.model.batch_size)
    return float(loader.batch_sampler.average_batch_size)


def loss_scale(config: TrainConfig, length: int, reference: float, machine: Machine) -> float:
    """Return the factor on the loss of a batch, as `--variable-batch-loss-scale` and `--naflex-loss-scale` ask for it.

    NaFlex batches of the processes of a step differ in size; each counts by its share of the images.

    Args:
        config: What to train.
        length: Number of images in the batch.
        reference: Batch size at which the factor is 1.
        machine: Where this process runs.
    """
    naflex = config.naflex.naflex_loader
    if not naflex and config.sizes.train_img_sizes is None:
        return 1.0
    mode = config.naflex.naflex_loss_scale if naflex else config.sizes.variable_batch_loss_scale
    scale = (length / reference) ** {'none': 0.0, 'sqrt': 0.5, 'linear': 1.0}[mode]
    if naflex and machine.distributed:
        total = torch.tensor(float(length), device=machine.device)
        dist.all_reduce(total)
        scale *= machine.world_size * length / total.item()
    return scale
