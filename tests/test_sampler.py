"""The order of images: a function of seed and epoch, shared by any number of processes."""

import pytest
import torch
from torch.utils.data import BatchSampler

from timm_debias.training.randomness import derive_seed
from timm_debias.training.sampler import BatchesFrom, EpochSampler


def images(length: int, epoch: int = 0, **options) -> list[int]:
    sampler = EpochSampler(length, seed=7, **options)
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert len(keys) == len(sampler)
    assert {key.epoch for key in keys} <= {epoch}
    return [key.image for key in keys]


def test_an_epoch_shows_each_image_once():
    assert sorted(images(50)) == list(range(50))
    assert images(50) == images(50)
    assert images(50) != images(50, epoch=1)


def test_order_is_the_documented_one():
    generator = torch.Generator().manual_seed(derive_seed(7, 3, 'order'))
    assert images(50, epoch=3) == torch.randperm(50, generator=generator).tolist()


@pytest.mark.parametrize('world_size', [2, 3, 4])
def test_processes_share_the_batches_of_one(world_size):
    whole = images(50)
    shares = [images(50, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    together = [image for images in zip(*shares, strict=True) for image in images]
    assert together == whole[: len(together)]
    assert len(whole) - len(together) < world_size


def test_positions_count_over_all_processes():
    sampler = EpochSampler(10, seed=0, rank=1, world_size=3)
    assert [key.position for key in sampler] == [1, 4, 7]


@pytest.mark.parametrize('repeats', [3.0, 1.5])
def test_repeats(repeats):
    """timm's RepeatAugSampler: as many samples as images, rounded down to 256, each image `repeats` times in a row."""
    found = images(600, repeats=repeats)
    assert len(found) == 512
    order = images(600)
    assert found == [order[int(slot / repeats)] for slot in range(512)]


def test_few_images_with_repeats():
    assert len(images(10, repeats=3.0)) == 10


def test_starting_at_a_batch():
    sampler = EpochSampler(23, seed=0)
    batches = BatchesFrom(BatchSampler(sampler, 4, drop_last=True))
    whole = list(batches)
    assert len(batches) == len(whole) == 5
    for first in range(6):
        batches.first = first
        assert list(batches) == whole[first:]
        assert len(batches) == 5
