"""The order of the training images: a function of seed and epoch, from any batch on."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import Sampler

from .randomness import derive_seed

_ROUND = 256
"""With repetitions, an epoch is rounded down to a multiple of this many images, as in timm's RepeatAugSampler."""


class SampleKey(NamedTuple):
    """What a data set is asked for.

    Attributes:
        image: Number of the image in the data set.
        epoch: Number of the epoch.
        position: Number of the sample in the order of the epoch, over all processes.
    """

    image: int
    epoch: int
    position: int


class EpochSampler(Sampler[Any]):
    """Yields the samples of one process in an epoch.

    All processes share one shuffled order, of which process r takes the positions r, r + processes, … So the batches of
    all processes together are the same images whatever the number of processes, as long as they are as many. Images
    that are left when each process has had as many are left out: none is shown twice to fill up.

    Args:
        length: Images in the data set.
        seed: Seed of the run.
        rank: Number of this process.
        world_size: Number of processes.
        repeats: Samples in a row that show the same image, each augmented on its own (Hoffer et al., "Augment your
            batch", CVPR 2020); as many samples an epoch as without.
    """

    def __init__(self, length: int, seed: int, rank: int = 0, world_size: int = 1, repeats: float = 1.0) -> None:
        self.length = length
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.repeats = repeats
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be that of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        samples = self.length
        if self.repeats > 1 and samples >= _ROUND:
            samples -= samples % _ROUND
        return samples // self.world_size

    def __iter__(self) -> Iterator[SampleKey]:
        epoch = self.epoch
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch, 'order'))
        order = torch.randperm(self.length, generator=generator)
        if self.repeats > 1:
            slots = torch.arange(math.ceil(self.length * self.repeats), dtype=torch.float64)
            order = order[(slots / self.repeats).long()]
        indices = order.tolist()  # One list: a tensor a sample would be slow to take apart.
        for number in range(len(self)):
            position = number * self.world_size + self.rank
            yield SampleKey(indices[position], epoch, position)


class BatchesFrom(Sampler[list[Any]]):
    """The batches of another batch sampler from number `first` on; those before are passed over without being read."""

    def __init__(self, batch_sampler: Any) -> None:
        self.batch_sampler = batch_sampler
        self.first = 0

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, wherever the next iteration starts."""
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[Any]]:
        return islice(iter(self.batch_sampler), self.first, None)
