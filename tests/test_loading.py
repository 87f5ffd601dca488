"""One pool of workers for the batches of many parts."""

import pytest
import torch
from PIL import Image

from timm_debias.validation.benchmarks import get_benchmark
from timm_debias.validation.loading import AsPublished, PartBatches, WrongSizeError, preprocessing, share

INPUT = {'input_size': (3, 32, 48), 'interpolation': 'bicubic', 'crop_pct': 0.8, 'crop_mode': 'center'}


class Shades:
    """Images of one grey level each; those at `broken` cannot be read, the one at `wide` has another size."""

    fingerprint = ''

    def __init__(self, levels, broken=(), wide=()):
        self.levels, self.broken, self.wide = levels, broken, wide

    def __len__(self):
        return len(self.levels)

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError('torn')
        return Image.new('RGB', (9 if index in self.wide else 8, 8), (self.levels[index],) * 3)

    def name(self, index):
        return str(index)


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_never_mix_parts(workers):
    parts = [Shades(range(7)), Shades(range(10, 11)), Shades(range(20, 26))]
    batches = PartBatches([(part, AsPublished(8)) for part in parts], 3, workers)
    levels = [[batch.pixels[:, 0, 0, 0].tolist() for batch in part] for part in batches]
    assert levels == [[[0, 1, 2], [3, 4, 5], [6]], [[10]], [[20, 21, 22], [23, 24, 25]]]


@pytest.mark.parametrize('world_size', [1, 2, 3, 8])
@pytest.mark.parametrize('length', [1, 4, 5, 40, 50])
def test_every_image_has_one_process(length, world_size):
    shares = [share(length, 4, rank, world_size) for rank in range(world_size)]
    assert [index for indices in shares for index in indices] == list(range(length))
    assert all(indices.start % 4 == 0 for indices in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 4 + 3


def test_batches_are_the_same_whatever_the_number_of_processes():
    parts = [(Shades(range(7)), AsPublished(8)), (Shades(range(10, 11)), AsPublished(8))]
    found = [[], []]
    for rank in range(2):
        for part, batches in zip(found, PartBatches(parts, 3, 0, rank=rank, world_size=2), strict=True):
            part.append([batch.indices.tolist() for batch in batches])
    assert found == [[[[0, 1, 2]], [[3, 4, 5], [6]]], [[], [[0]]]]


def test_failures_are_told_apart():
    images = Shades(range(6), broken=(1, 3, 4, 5), wide=(2,))
    (part,) = PartBatches([(images, AsPublished(8))], 3, 0)
    first, second = part
    assert first.indices.tolist() == [0]
    assert [(failure.index, failure.fatal) for failure in first.failures] == [(1, False), (2, True)]
    assert first.failures[0].reason == 'torn'
    assert '9×8 pixels, expected 8×8' in first.failures[1].reason
    assert second.pixels is None
    assert len(second.failures) == 3


def test_as_published_changes_nothing():
    image = Image.effect_noise((8, 8), 60).convert('RGB')
    pixels = AsPublished(8)(image)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels.permute(1, 2, 0).flatten(), torch.tensor(list(image.tobytes()), dtype=torch.uint8))
    with pytest.raises(WrongSizeError):
        AsPublished(9)(image)


@pytest.mark.parametrize('name', ['imagenet-c', 'stylized-imagenet', 'cue-conflict'])
def test_published_images_are_neither_resized_nor_cropped(name):
    transform, words = preprocessing(get_benchmark(name), INPUT, None)
    assert transform == AsPublished(224)
    assert 'no resize, no crop' in words


def test_other_images_go_through_the_transform_of_the_model():
    transform, words = preprocessing(get_benchmark('imagenet-a'), INPUT, 2)
    assert transform(Image.new('RGB', (70, 90), (5, 6, 7))).shape == (3, 32, 48)
    for part in ('bicubic', '48×32', 'crop_pct 0.8', 'border of 2 pixels'):
        assert part in words
