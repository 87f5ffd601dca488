"""Drawn images of one textured figure on a smooth ground, with the figures they become when restyled.

Photographs come without their restyled selves; a drawn figure has one: the same outline with the partner's filling, on
the partner's ground. Fillings are random waves and crops of the images trained on, grounds are smooth noise.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

_OUTLINE_LATTICES = (3, 6)  # From, and below.
_CORNERS = (3, 11)  # From, and below.
_DENT = 0.6  # Share by which a corner may lie nearer to the centre than the outermost.
_HOLE_SHARE = 0.25  # Of figures have one,
_HOLE = (0.1, 0.35)  # that takes this share of their area.
_PATTERN_SHARE = 0.75  # Of fillings; the others are crops.
_WAVES = 3
_PERIOD = (5.0, 20.0)  # Pixels.
_SHARPNESS = (1.0, 8.0)
_TURN = 3.0  # Radians by which smooth noise displaces waves.


class Figures(NamedTuple):
    """Figures and their parts; see `draw_figures`.

    Attributes:
        images: [B, 3, H, W] in [0, 1].
        inside: [B, 1, H, W] in [0, 1], 1 within the outline.
        fillings: [B, 3, H, W] in [0, 1]; seen within the outline only.
        grounds: [B, 3, H, W] in [0, 1]; seen without.
    """

    images: torch.Tensor
    inside: torch.Tensor
    fillings: torch.Tensor
    grounds: torch.Tensor

    def restyled(self, partners: torch.Tensor) -> torch.Tensor:
        """Return the outline of each figure with filling and ground of its partner's, [B, 3, H, W]."""
        return torch.lerp(self.grounds[partners], self.fillings[partners], self.inside)


class Batch(NamedTuple):
    """Images to train on; the first F are drawn figures.

    Attributes:
        images: [B, 3, H, W] in [0, 1].
        partners: [B]; image i is to get the texture of image partners[i].
        restyled: [F, 3, H, W] in [0, 1]; what the figures are to become.
        inside: [F, 1, H, W] in [0, 1]; 1 within the figures' outlines.
    """

    images: torch.Tensor
    partners: torch.Tensor
    restyled: torch.Tensor
    inside: torch.Tensor


def make_batch(crops: torch.Tensor, figures: int, generator: torch.Generator) -> Batch:
    """Turn the first `figures` of `crops` [B, 3, H, W] into drawn figures and pair figures and the others within."""
    partners = torch.arange(len(crops))
    for own in (partners[:figures], partners[figures:]):
        # A group is empty or has at least two images; where it is empty, so is its shift.
        own.copy_(own.roll(int(torch.randint(1, max(2, len(own)), (1,), generator=generator))))
    drawn = draw_figures(crops[:figures], generator)
    restyled = drawn.restyled(partners[:figures])
    return Batch(torch.cat([drawn.images, crops[figures:]]), partners, restyled, drawn.inside)


def draw_figures(crops: torch.Tensor, generator: torch.Generator) -> Figures:
    """Draw a figure for each of `crops` [B, 3, H, W] in [0, 1], H = W, on the CPU.

    The outline covers a quarter to a half of the image: a level line of smooth noise, or in every other image a
    polygon, convex or not; one in four has a hole. The filling is a pattern of one to three waves of one period,
    straight or bent, from soft to nearly two-tone, between two random colours, or in one of four the crop itself; the
    ground is a colour with a smooth drift.
    """
    count, _, size, _ = crops.shape
    inside = _outlines(count, size, generator)
    colours = torch.rand(3, count, 3, 1, 1, generator=generator)
    patterns = torch.lerp(colours[0], colours[1], _patterns(count, size, generator))
    drawn = torch.rand(count, 1, 1, 1, generator=generator) < _PATTERN_SHARE
    fillings = torch.where(drawn, patterns, crops)
    drift = 0.2 * _smooth_noise(count, 3, size, generator) * _uniform(count, 0, 1, generator)
    grounds = (colours[2] + drift).clamp(0, 1)
    return Figures(torch.lerp(grounds, fillings, inside), inside, fillings, grounds)


def _outlines(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    axis = torch.linspace(-1, 1, size)
    height = _hills(count, axis, generator)
    height[1::2] = _pyramids(len(height[1::2]), axis, generator)
    share = _uniform(count, 0.25, 0.5, generator).flatten()
    hole = share * _uniform(count, *_HOLE, generator).flatten()
    hole = hole * (torch.rand(count, generator=generator) < _HOLE_SHARE)
    ranked = height.flatten(1).sort(descending=True).values
    level, top = (ranked.gather(1, (part * size * size).long()[:, None])[:, :, None, None] for part in (share, hole))
    filled, cut = (((height - limit) * size).sigmoid() for limit in (level, top))
    return torch.where(hole.view(-1, 1, 1, 1) > 0, filled - cut, filled).clamp(0, 1)


def _hills(count: int, axis: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return heights [count, 1, size, size] whose level lines are smooth."""
    lattice = int(torch.randint(*_OUTLINE_LATTICES, (1,), generator=generator))
    # Falls off to the borders, so that figures lie inside the image.
    hill = 1 - (axis[:, None].square() + axis[None].square())
    return hill + 0.6 * _smooth_noise(count, lattice, len(axis), generator)[:, :1]


def _pyramids(count: int, axis: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return heights [count, 1, size, size] whose level lines are polygons around a point near the centre."""
    corners = int(torch.randint(*_CORNERS, (1,), generator=generator))
    jitter = _uniform(count * corners, -0.2, 0.2, generator).view(count, corners)
    turn = _uniform(count, 0, 2 * math.pi, generator).view(count, 1)
    angle = 2 * math.pi / corners * (torch.arange(corners) + jitter) + turn
    radius = 1 - _DENT * torch.rand(count, corners, generator=generator)
    corner = radius[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    following = corner.roll(-1, dims=1)
    centre = 0.4 * torch.rand(count, 2, 1, 1, generator=generator) - 0.2
    place = torch.stack(torch.meshgrid(axis, axis, indexing='xy')) - centre
    # A place lies in the sector between two neighbouring corners; its depth is that of the line through them.
    shares = torch.linalg.solve(torch.stack([corner, following], dim=-1), place.flatten(2)[:, None])
    inside = (shares >= 0).all(2)
    depth = torch.where(inside, shares.sum(2), torch.inf).amin(1)
    return -depth.view(count, 1, len(axis), len(axis))


def _patterns(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return [count, 1, size, size] in [0, 1]."""
    axis = torch.arange(size, dtype=torch.float32)
    period = _uniform(count, *_PERIOD, generator)
    first = _uniform(count, 0, math.pi, generator)
    number = torch.randint(1, _WAVES + 1, (count, 1, 1, 1), generator=generator)
    bent = torch.rand(count, 1, 1, 1, generator=generator) < 0.4
    lattice = int(torch.randint(4, 12, (1,), generator=generator))
    turn = _TURN * bent * _smooth_noise(count, lattice, size, generator)
    waves = torch.zeros(count, 1, size, size)
    for index in range(_WAVES):
        angle = first + index * math.pi / number
        phase = _uniform(count, 0, 2 * math.pi, generator)
        way = axis[None, :] * angle.cos() + axis[:, None] * angle.sin()
        waves += (index < number) * (2 * math.pi * way / period + phase + turn[:, index : index + 1]).cos()
    return (_uniform(count, *_SHARPNESS, generator) * waves).sigmoid()


def _smooth_noise(count: int, lattice: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Return [count, 3, size, size], about standard normal on a lattice and smooth between."""
    noise = torch.randn(count, 3, lattice, lattice, generator=generator)
    return F.interpolate(noise, size=(size, size), mode='bicubic', align_corners=True)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)
