"""Multi-grid's sizes against the reference's scheduler, written again from its description."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from timm_debias import DebiasError
from timm_debias.flags import parse_with_yaml
from timm_debias.multi_grid import MultiGrid
from timm_debias.training import debias
from timm_debias.training.main import build_parser, config_from_args

HPARAMS = Path(__file__).parents[1] / 'hparams'
RECIPES = {name: (100, [30, 60, 90], 112) for name in ('resnet50', 'resnet101', 'resnet152')}
RECIPES |= {f'resnet50_{bias}_biased': RECIPES['resnet50'] for bias in ('shape', 'texture')}
RECIPES |= {'resnext101_32x4d_mixup': (180, [60, 120, 160], 200)}


def reference_size(batch, epoch, schedule, epochs, min_size, size=224.0):
    if batch % 2 == 0:
        size /= 2**0.5
    ends = [0, *schedule, epochs]
    for number in range(len(ends) - 1):
        if ends[number] <= epoch < ends[number + 1]:
            if epoch < (ends[number] + ends[number + 1]) / 2:
                size /= 2**0.5
            break
    return max(int(size + 0.5), min_size)


@pytest.mark.parametrize('name', RECIPES)
def test_sizes_of_the_paper_s_recipes(name, monkeypatch):
    epochs, schedule, min_size = RECIPES[name]
    config = config_from_args(parse_with_yaml(build_parser(), ['-c', str(HPARAMS / f'{name}.yaml')]))
    monkeypatch.setattr(debias, 'forward_error', lambda *_: None)  # Any size will do.
    grid = debias.build_multi_grid(config, SimpleNamespace(), (224, 224), SimpleNamespace())
    seen = set()
    for epoch in range(epochs):
        for update in range(4):
            expected = reference_size(update, epoch, schedule, epochs, min_size)
            assert grid.size((224, 224), epoch, update) == (expected, expected)
            seen.add((expected, expected))
    assert grid.sizes((224, 224)) == sorted(seen)


@pytest.mark.parametrize(('name', 'side'), [('resnet50_a3', 160), ('convnext_tiny', 224)])
def test_sizes_under_a_cosine(name, side, monkeypatch):
    """A rate that falls all the time is one stage: the smallest images come in the first half of all epochs."""
    config = config_from_args(parse_with_yaml(build_parser(), ['-c', str(HPARAMS / f'{name}.yaml')]))
    assert config.schedule.sched == 'cosine'
    monkeypatch.setattr(debias, 'forward_error', lambda *_: None)
    grid = debias.build_multi_grid(config, SimpleNamespace(), (side, side), SimpleNamespace())
    for epoch in range(config.schedule.epochs):
        for update in (0, 1):
            expected = reference_size(update, epoch, [], config.schedule.epochs, min_size=0, size=side)
            assert grid.size((side, side), epoch, update) == (expected, expected)


def test_half_of_the_side_is_the_reference_min_size():
    assert MultiGrid((100,)).sizes((224, 224)) == MultiGrid((100,), 112).sizes((224, 224))
    assert MultiGrid((100,)).sizes((224, 224)) == [(112, 112), (158, 158), (224, 224)]


def test_pixels_on_average():
    grid = MultiGrid((30, 60, 90, 100))
    areas = [grid.size((224, 224), epoch, update)[0] ** 2 / 224**2 for epoch in range(100) for update in (0, 1)]
    assert sum(areas) / len(areas) == pytest.approx(0.56, abs=0.005)


def test_each_side_is_shrunk():
    assert MultiGrid((4,)).size((64, 96), epoch=0, update=0) == (32, 48)
    assert MultiGrid((4,)).size((64, 96), epoch=2, update=1) == (64, 96)


def test_after_the_last_stage():
    """Cool-down epochs go on as the second half of a stage."""
    assert MultiGrid((4,)).size((64, 64), epoch=9, update=1) == (64, 64)


def test_shrink_takes_the_nearest_pixels():
    images = torch.rand(2, 3, 64, 64)
    rows = torch.tensor([int(row * 64 / 45) for row in range(45)])
    assert torch.equal(MultiGrid.shrink(images, (45, 45)), images[:, :, rows][..., rows])
    assert MultiGrid.shrink(images, (64, 64)) is images


@pytest.mark.parametrize('ends', [(), (0, 10), (30, 20)])
def test_refuses_stages_that_do_not_ascend(ends):
    with pytest.raises(DebiasError, match='ascending'):
        MultiGrid(ends)


def test_min_size_may_be_that_of_the_images():
    assert MultiGrid((4,), min_size=64).sizes((64, 64)) == [(64, 64)]


def test_refuses_to_enlarge():
    with pytest.raises(DebiasError, match='200 is above that of the images, 64'):
        MultiGrid((4,), min_size=200).size((64, 64), 0, 0)
