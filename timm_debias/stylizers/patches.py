"""Patches: small windows of a style, and an image tiled with those that fit each place.

Copying patches of the style goes back to Chen & Schmidt, "Fast Patch-based Style Transfer of Arbitrary Style" (2016);
here attention chooses them, and each is tiled rather than pasted, so that a few make a whole image.
"""

import torch
import torch.nn.functional as F

GRID = 6
"""Patches are cut from a grid of this many places a side, evenly spread over the style."""

SIZE = 4
"""Height and width of a patch, in positions of the map that places are compared on."""


def cut_patches(features: torch.Tensor, scale: int = 1) -> torch.Tensor:
    """Return windows [B, GRID², C, SIZE · scale, SIZE · scale] of features [B, C, H, W], H and W multiples of `scale`.

    Windows overlap where the map is small; a map smaller than a window is continued by its last row and column.

    Args:
        features: What to cut.
        scale: Its size, in that of the map that places are compared on: windows of both maps are in the same places.
    """
    batch, channels = features.shape[:2]
    rows, columns = (_places(length, scale, features.device) for length in features.shape[-2:])
    windows = features[:, :, rows][..., columns].view(batch, channels, GRID, SIZE * scale, GRID, SIZE * scale)
    return windows.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def choose(keys: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Return how much of each patch each place takes: softmax over keys of their products with the queries.

    Args:
        keys: [B, K, D].
        queries: [B, D, H, W].

    Returns:
        [B, K, H, W], of sum 1 over K.
    """
    return torch.einsum('bkd,bdhw->bkhw', keys, queries).softmax(dim=1)


def assemble(patches: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Tile a map with patches, each place with those that `weights` say.

    Every patch is tiled over the whole map, in mirror images so that tiles join, and the tilings are blended place by
    place: a pattern goes on undisturbed as long as the same patches are chosen.

    Args:
        patches: [B, K, C, S, S].
        weights: [B, K, H, W].

    Returns:
        [B, C, 2·H, 2·W]. One weight for 2×2 pixels costs a quarter of one a pixel, and the difference is hardly seen.
    """
    # A patch and its mirror images make a tile whose borders fit each other.
    tile = torch.cat([patches, patches.flip(-1)], dim=-1)
    tile = torch.cat([tile, tile.flip(-2)], dim=-2)
    tile = F.pixel_unshuffle(tile, 2)
    size = tile.shape[-1]
    height, width = weights.shape[-2:]
    weights = F.pad(weights, (0, -width % size, 0, -height % size))
    weights = weights.unflatten(3, (-1, size)).unflatten(2, (-1, size))
    tiles = torch.einsum('bkipjq,bkcpq->bcipjq', weights, tile)
    return F.pixel_shuffle(tiles.flatten(4, 5).flatten(2, 3)[..., :height, :width], 2)


def _places(length: int, scale: int, device: torch.device) -> torch.Tensor:
    """Return the positions, GRID · SIZE · scale of them, that the windows take along an axis."""
    starts = torch.linspace(0, max(length // scale - SIZE, 0), GRID, device=device).round().long() * scale
    return (starts[:, None] + torch.arange(SIZE * scale, device=device)).clamp(max=length - 1).flatten()
