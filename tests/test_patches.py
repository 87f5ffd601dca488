"""Patches against loops over places."""

import pytest
import torch

from timm_debias.stylizers.patches import GRID, SIZE, assemble, choose, cut_patches


def batch(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_patches_are_windows_of_the_map():
    """On a map of just GRID · SIZE they partition it, row by row."""
    features = batch(2, 3, GRID * SIZE, GRID * SIZE)
    patches = cut_patches(features)
    assert patches.shape == (2, GRID**2, 3, SIZE, SIZE)
    for index in range(GRID**2):
        top, left = SIZE * (index // GRID), SIZE * (index % GRID)
        assert torch.equal(patches[:, index], features[:, :, top : top + SIZE, left : left + SIZE])


@pytest.mark.parametrize('size', [(7, 90), (SIZE, 11)])
def test_patches_reach_all_borders_of_any_map(size):
    features = batch(1, 1, *size)
    patches = cut_patches(features)
    assert torch.equal(patches[0, 0, 0], features[0, 0, :SIZE, :SIZE])
    assert torch.equal(patches[0, -1, 0], features[0, 0, -SIZE:, -SIZE:])
    windows = features[0, 0].unfold(0, SIZE, 1).unfold(1, SIZE, 1).flatten(0, 1)
    for patch in patches[0, :, 0]:
        assert any(torch.equal(patch, window) for window in windows)


def test_a_map_smaller_than_a_patch_is_continued():
    features = batch(1, 1, SIZE - 1, SIZE - 2)
    for patch in cut_patches(features)[0, :, 0]:
        assert torch.equal(patch[:-1, :-2], features[0, 0])
        assert torch.equal(patch[-1], patch[-2])
        assert torch.equal(patch[:, -1], patch[:, -3])


@pytest.mark.parametrize('size', [40, 12])
def test_windows_of_a_finer_map_are_in_the_same_places(size):
    """A map repeated 3×3 times gives the windows of the map, repeated."""
    features = batch(2, 3, size, size)
    finer = features.repeat_interleave(3, 2).repeat_interleave(3, 3)
    expected = cut_patches(features).repeat_interleave(3, 3).repeat_interleave(3, 4)
    assert torch.equal(cut_patches(finer, 3), expected)


def test_choice_by_a_loop():
    keys, queries = batch(2, 5, 4), batch(2, 4, 3, 2, seed=1)
    weights = choose(keys, queries)
    for image in range(2):
        for row in range(3):
            for column in range(2):
                scores = torch.tensor([float(key @ queries[image, :, row, column]) for key in keys[image]])
                torch.testing.assert_close(weights[image, :, row, column], scores.exp() / scores.exp().sum())


@pytest.mark.parametrize('size', [(8, 12), (5, 13), (2, 3)])
def test_tiling_by_a_loop(size):
    """Pixels take the patch's value at their place in the tile, counted backwards in every second tile."""
    side = 8
    patches = batch(2, 4, 3, side, side)
    weights = batch(2, 4, *size, seed=1).softmax(1)
    result = assemble(patches, weights)
    assert result.shape == (2, 3, 2 * size[0], 2 * size[1])

    def place(position: int) -> int:
        tile, inside = divmod(position, side)
        return side - 1 - inside if tile % 2 else inside

    for row in range(2 * size[0]):
        for column in range(2 * size[1]):
            values = patches[:, :, :, place(row), place(column)]
            expected = (weights[:, :, None, row // 2, column // 2] * values).sum(1)
            torch.testing.assert_close(result[:, :, row, column], expected)
