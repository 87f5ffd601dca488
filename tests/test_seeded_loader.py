"""Batches as a function of seed, epoch and batch, whatever ran before and however many workers there are."""

import io
import random
import tarfile

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from torch.utils.data import Dataset

from timm_debias.errors import DebiasError
from timm_debias.machine import Machine
from timm_debias.training.seeded_loader import SeededLoader

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class Pictures(Dataset):
    """Random pictures; pixel (0, 0) of each tells its number."""

    def __init__(self, count: int) -> None:
        self.transform = None
        pixels = np.random.default_rng(0).integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
        self.images = [Image.fromarray(picture) for picture in pixels]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        image = self.images[index]
        return (image if self.transform is None else self.transform(image)), index


def build(count: int = 22, batch_size: int = 4, seed: int = 1, place: tuple[int, int] = (0, 1), **options):
    seeded = {name: options.pop(name) for name in ('repeats', 'mixup_off_epoch') if name in options}
    loader = timm.data.create_loader(
        Pictures(count), (3, 16, 16), batch_size, is_training=True, auto_augment='rand-m9-n2', mean=MEAN, std=STD,
        device=torch.device('cpu'), **{'num_workers': 0, **options},
    )  # fmt: skip
    rank, world_size = place
    return SeededLoader(loader, seed, Machine(torch.device('cpu'), rank, world_size, world_size > 1), **seeded)


def epoch(loader: SeededLoader, number: int, first: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    loader.set_position(number, first)
    return list(loader)


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True)
    )


def disturb() -> None:
    random.seed(random.random())
    np.random.seed(np.random.randint(1000))
    torch.manual_seed(int(torch.randint(1000, ())))


OPTIONS = [
    {},
    {'re_prob': 0.9},
    {'re_prob': 0.9, 'use_prefetcher': False},
    {'collate_fn': timm.data.FastCollateMixup(mixup_alpha=0.4, cutmix_alpha=1.0, num_classes=22)},
    {'num_workers': 2},
    {'num_workers': 2, 're_prob': 0.9, 'collate_fn': timm.data.FastCollateMixup(mixup_alpha=0.4, num_classes=22)},
]


@pytest.mark.parametrize('options', OPTIONS, ids=lambda options: '-'.join(options))
def test_any_batch_of_any_epoch_alone(options):
    """The whole epochs of one loader, against what others show that go there at once."""
    disturb()
    loader = build(**options)
    assert len(loader) == 5
    whole = [epoch(loader, number) for number in range(3)]
    assert not same(whole[0], whole[1])
    for number, first in ((1, 0), (2, 3), (0, 1), (2, 5)):
        disturb()
        assert same(epoch(loader, number, first), whole[number][first:])
        disturb()
        assert same(epoch(build(**options), number, first), whole[number][first:])
        assert len(loader) == 5
    assert not same(epoch(build(seed=2, **options), 0), whole[0])


@pytest.mark.parametrize('options', [OPTIONS[3], {}], ids=lambda options: '-'.join(options))
def test_number_of_workers_does_not_matter(options):
    alone = epoch(build(**options), 1)
    assert same(epoch(build(**options, num_workers=2), 1), alone)


def test_processes_show_the_batches_of_one():
    """Two processes with half the batch: the same images, augmented alike."""
    whole = epoch(build(batch_size=4), 1)
    shares = [epoch(build(batch_size=2, place=(rank, 2)), 1) for rank in range(2)]
    for number, (images, labels) in enumerate(whole):
        for rank in range(2):
            assert torch.equal(shares[rank][number][0], images[rank::2])
            assert torch.equal(shares[rank][number][1], labels[rank::2])


def test_samples_differ_within_and_between_epochs():
    """The augmentation of an image is another each time; no two samples share random numbers."""
    loader = build(count=4, batch_size=4, repeats=1)
    images = torch.cat([epoch(loader, number)[0][0] for number in range(6)])
    assert len({image.numpy().tobytes() for image in images}) == 24


def test_repeats_are_augmented_on_their_own():
    images, labels = epoch(build(count=8, batch_size=8, repeats=2), 0)[0]
    assert labels[::2].equal(labels[1::2])
    assert not any(torch.equal(images[number], images[number + 1]) for number in range(0, 8, 2))


@pytest.mark.parametrize('workers', [0, 2])
def test_training_process_keeps_its_random_numbers(workers):
    """What the loop draws (dropout, partners) is not touched by loading, and the other way round."""
    loader = build(re_prob=0.9, num_workers=workers)
    drawn = []
    for consume in (False, True):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        if consume:
            epoch(loader, 0)
        drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize('workers', [0, 2])
def test_mixing_ends_at_its_epoch(workers):
    """Also in workers that were started before."""
    collate = timm.data.FastCollateMixup(mixup_alpha=1.0, num_classes=22, label_smoothing=0.0)
    loader = build(collate_fn=collate, mixup_off_epoch=2, num_workers=workers)
    mixed = [bool((epoch(loader, number)[0][1].max(dim=1).values < 1).any()) for number in range(4)]
    assert mixed == [True, True, False, False]


def test_schedule_of_sizes():
    """timm's batches of changing size and resolution, gone on with in the middle."""
    options = dict(input_size_choices=[16, 24], batch_size_choices=[4, 2])
    loader = build(**options)
    whole = epoch(loader, 1)
    assert {images.shape[-1] for images, _ in whole} == {16, 24}
    assert sorted(torch.cat([labels for _, labels in whole]).tolist()) == list(range(22))
    assert same(epoch(build(**options), 1, 3), whole[3:])
    assert [images.shape for images, _ in epoch(loader, 2)] != [images.shape for images, _ in whole]


@pytest.mark.parametrize('workers', [0, 2])
def test_sequences_of_patches(workers):
    """timm's NaFlex batches, whose number of images and length change; gone on with in the middle."""

    def naflex():
        loader = timm.data.create_naflex_loader(
            Pictures(40), patch_size=8, train_seq_lens=(9, 16), batch_size=8, is_training=True, num_workers=workers,
            mean=MEAN, std=STD, device=torch.device('cpu'), re_prob=0.5, pin_memory=False,
        )  # fmt: skip
        return SeededLoader(loader, 1, Machine(torch.device('cpu')))

    def patches(loader, number, first=0):
        return [(inputs['patches'], labels) for inputs, labels in epoch(loader, number, first)]

    loader = naflex()
    whole = [patches(loader, number) for number in range(2)]
    assert not same(whole[0], whole[1])
    assert same(patches(naflex(), 1), whole[1])
    assert same(patches(naflex(), 1, 2), whole[1][2:])


def test_less_than_a_batch():
    with pytest.raises(DebiasError, match='less than one batch'):
        build(count=7, batch_size=4, place=(0, 2))


@pytest.fixture
def shards(tmp_path):
    """A webdataset of two shards with 12 JPEGs each."""
    generator = np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(tmp_path / f'train-{shard}.tar', 'w') as tar:
            for number in range(12):
                buffer = io.BytesIO()
                Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(buffer, 'JPEG')
                for suffix, data in (('jpg', buffer.getvalue()), ('cls', str(12 * shard + number).encode())):
                    info = tarfile.TarInfo(f'{shard}{number:03d}.{suffix}')
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    info = (
        '{"splits": {"train": {"name": "train", "filenames": ["train-0.tar", "train-1.tar"], '
        '"shard_lengths": [12, 12], "num_samples": 24}}}'
    )
    (tmp_path / '_info.json').write_text(info)
    return tmp_path


@pytest.mark.parametrize('workers', [0, 2])
def test_stream(shards, workers):
    """A stream of shards: epochs do not depend on those before, and a resume throws away what has been seen."""
    pytest.importorskip('webdataset')

    def stream():
        dataset = timm.data.create_dataset(
            'wds/x', str(shards), split='train', is_training=True, batch_size=4, num_samples=24
        )
        loader = timm.data.create_loader(
            dataset, (3, 16, 16), 4, is_training=True, num_workers=workers, mean=MEAN, std=STD,
            device=torch.device('cpu'), re_prob=0.5,
        )  # fmt: skip
        return SeededLoader(loader, 1, Machine(torch.device('cpu')))

    loader = stream()
    whole = [epoch(loader, number) for number in range(3)]
    assert not same(whole[0], whole[1])
    assert same(epoch(stream(), 2), whole[2])
    assert same(epoch(stream(), 1, 2), whole[1][2:])
    assert same(epoch(loader, 1), whole[1])
