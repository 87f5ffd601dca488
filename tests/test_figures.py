"""Drawn figures: what is random is drawn once, and the restyled selves are made of the same parts."""

import pytest
import torch
import torch.nn.functional as F

from timm_debias.stylizer_training.figures import draw_figures, make_batch


def crops(count: int, size: int = 48) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(9))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_reproducible_and_varied():
    first, second, other = (draw_figures(crops(6), generator(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.images, other.images)
    assert first.images.flatten(1).unique(dim=0).shape[0] == 6
    assert all(part.min() >= 0 and part.max() <= 1 for part in first)


@pytest.mark.parametrize('seed', range(3))
def test_outlines_cover_a_quarter_to_a_half(seed):
    share = draw_figures(crops(16), generator(seed)).inside.mean((1, 2, 3))
    assert share.min() > 0.2
    assert share.max() < 0.55


def test_some_outlines_have_holes():
    """A hole is ground that cannot be reached from the border."""
    inside = (draw_figures(crops(64), generator()).inside > 0.5).float()
    reached = torch.zeros_like(inside)
    reached[..., 0, :] = reached[..., -1, :] = reached[..., 0] = reached[..., -1] = 1
    reached = reached * (1 - inside)
    for _ in range(4 * inside.shape[-1]):
        reached = F.max_pool2d(reached, 3, 1, 1) * (1 - inside)
    holes = ((1 - inside - reached).flatten(1).sum(1) > 0).sum()
    assert 6 <= holes <= 28  # One in four on average.


def test_some_fillings_are_the_crops():
    images = crops(64)
    taken = (draw_figures(images, generator()).fillings == images).all(dim=(1, 2, 3))
    assert 6 <= taken.sum() <= 28  # One in four on average.


def test_restyled_has_own_outline_and_the_partners_rest():
    figures = draw_figures(crops(4), generator())
    partners = torch.tensor([1, 2, 3, 0])
    restyled = figures.restyled(partners)
    for index, partner in enumerate(partners.tolist()):
        inside = figures.inside[index, 0] > 0.999
        outside = figures.inside[index, 0] < 0.001
        assert inside.any()
        assert outside.any()
        fill, ground = figures.fillings[partner], figures.grounds[partner]
        torch.testing.assert_close(restyled[index][:, inside], fill[:, inside], atol=2e-3, rtol=0)
        torch.testing.assert_close(restyled[index][:, outside], ground[:, outside], atol=2e-3, rtol=0)


@pytest.mark.parametrize(('count', 'figures'), [(8, 4), (5, 2), (4, 0)])
def test_batch(count, figures):
    images = crops(count)
    batch = make_batch(images, figures, generator())
    assert batch.images.shape == images.shape
    assert torch.equal(batch.images[figures:], images[figures:])
    assert len(batch.restyled) == len(batch.inside) == figures
    assert sorted(batch.partners.tolist()) == list(range(count))
    for index, partner in enumerate(batch.partners.tolist()):
        assert (index < figures) == (partner < figures)  # Figures take from figures, crops from crops.
        assert index != partner


def test_batch_knows_what_figures_become():
    images = crops(6)
    batch = make_batch(images, 4, generator(2))
    figures = draw_figures(images[:4], _after_partners(generator(2), 4, 2))
    assert torch.equal(batch.images[:4], figures.images)
    assert torch.equal(batch.restyled, figures.restyled(batch.partners[:4]))


def _after_partners(generator: torch.Generator, *counts: int) -> torch.Generator:
    for count in counts:
        torch.randint(1, count, (1,), generator=generator)
    return generator
