"""A compact style transfer network whose weights ship with the package."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .base import Features, Style, Stylizer, adain, mean_std
from .patches import assemble, choose, cut_patches
from .registry import register_stylizer
from .weights import load_stylizer

WEIGHTS = Path(__file__).parent / 'weights' / 'adain_lite.safetensors'
"""The weights in the package."""

_CHANNELS = (24, 64, 128)  # At 1/2, 1/4 and 1/8 of the image's size.
_DECODER_CHANNELS = (32, 24)
_STRIDE = 4  # Patches are cut on the grid of the middle level, where a position stands for 4×4 pixels.
_KEY_CHANNELS = 16
_SMOOTH = 8  # Pixels; the decoder draws nothing finer at alpha = 1.


class LiteFeatures(NamedTuple):
    """What `AdainLite.encode` returns for images [B, 3, H, W].

    Attributes:
        fine: [B, 24, H/2, W/2], here and below rounded up.
        middle: [B, 64, H/4, W/4].
        coarse: [B, 128, H/8, W/8].
        images: In [-1, 1], height and width rounded up to multiples of 4.
        keys: [B, 16, H/2, W/2], rounded up to even; what places are compared by, of instance-normalised features:
            colour and contrast say little.
        fine_mean: And the others, [B, C, 1, 1]: mean and standard deviation of the levels.
    """

    fine: torch.Tensor
    middle: torch.Tensor
    coarse: torch.Tensor
    images: torch.Tensor
    keys: torch.Tensor
    fine_mean: torch.Tensor
    fine_std: torch.Tensor
    middle_mean: torch.Tensor
    middle_std: torch.Tensor
    coarse_mean: torch.Tensor
    coarse_std: torch.Tensor

    @property
    def statistics(self) -> tuple[torch.Tensor, ...]:
        """The means and standard deviations, in the order above."""
        return self[5:]


class AdainLite(Stylizer):
    """Encoder and decoder with AdaIN at three scales, patches of the style, and a decoder steered by the style.

    AdaIN (Huang & Belongie, ICCV 2017) is applied at 1/2, 1/4 and 1/8 of the image's size, so that reconstruction is
    sharp. Statistics of channels alone cannot say what a pattern looks like, so the style also holds patches of its
    pixels, and each place of the content is tiled with those that resemble it after instance normalisation (attention
    over normalised features as in Liu et al., "AdaAttN", ICCV 2021). What passes of
    the content's own features at the finer scales at alpha = 1 is attenuated by a learned gate a channel, because its
    local texture lives there. The style's statistics also scale and shift the decoder's channels (FiLM, Perez et al.,
    AAAI 2018).
    """

    architecture = 'adain_lite'

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = _CHANNELS
        joined, last = _DECODER_CHANNELS
        self.encode_fine = _conv(3, fine, kernel_size=5, stride=2)
        self.encode_middle = _conv(fine, middle, stride=2)
        self.refine_middle = _conv(middle, middle)
        self.encode_coarse = _conv(middle, coarse, stride=2)
        self.refine_coarse = nn.Sequential(nn.ReLU(), _conv(coarse, coarse), nn.ReLU(), _conv(coarse, coarse))
        self.key_fine = nn.Conv2d(fine, _KEY_CHANNELS, 1, bias=False)
        self.key_middle = nn.Conv2d(middle, _KEY_CHANNELS, 1, bias=False)
        self.key_coarse = nn.Conv2d(coarse, _KEY_CHANNELS, 1, bias=False)
        self.from_draft = nn.Conv2d(3 * _STRIDE**2, middle, 1)
        self.decode_coarse = _conv(coarse, coarse)
        self.up_middle = nn.Conv2d(coarse, 4 * middle, 1)
        self.decode_middle = _conv(middle, middle)
        self.up_fine = nn.Conv2d(middle, 4 * joined, 1)
        self.skip_fine = nn.Conv2d(fine, joined, 1)
        self.decode_fine = _conv(joined, last)
        self.to_pixels = _conv(last, 4 * 3)
        # Gates are 2·sigmoid of these: nearly shut at the finest scale, open at the coarsest.
        starts = zip(_CHANNELS, (-3.0, -1.0, 0.0), strict=True)
        self.gates = nn.ParameterList([torch.full((1, channels, 1, 1), start) for channels, start in starts])
        self.steering = nn.ModuleList([_steering(channels) for channels in (coarse, middle, last)])

    def encode(self, images: torch.Tensor) -> LiteFeatures:
        images = 2 * images - 1
        fine = self.encode_fine(images)
        middle = self.encode_middle(_act(fine))
        middle = middle + self.refine_middle(_act(middle))
        coarse = self.encode_coarse(_act(middle))
        coarse = coarse + self.refine_coarse(coarse)
        statistics = (*mean_std(fine), *mean_std(middle), *mean_std(coarse))
        keys = self._keys((fine, middle, coarse), statistics)
        return LiteFeatures(fine, middle, coarse, _padded(images, _STRIDE), keys, *statistics)

    def _keys(self, levels: Sequence[torch.Tensor], statistics: Sequence[torch.Tensor]) -> torch.Tensor:
        """Sum what the levels say of each place, the coarser ones interpolated."""
        fine, middle, coarse = (
            (level - mean) / std for level, mean, std in zip(levels, statistics[::2], statistics[1::2], strict=True)
        )
        keys = self.key_coarse(coarse.to(levels[0].dtype))
        keys = self.key_middle(middle.to(levels[0].dtype)) + _cropped(_doubled(keys), middle)
        return _padded(self.key_fine(fine.to(levels[0].dtype)), 2) + _doubled(keys)

    def style(self, features: Features) -> Style:
        known = LiteFeatures(*features)
        return cut_patches(known.images, _STRIDE), cut_patches(known.keys, _STRIDE // 2).mean((3, 4)), *known.statistics

    def decode(self, features: Features, style: Style, alpha: float) -> torch.Tensor:
        known = LiteFeatures(*features)
        patches, keys, *statistics = style
        fine, middle, coarse = self._restyled(known, statistics, alpha)
        draft = alpha * assemble(patches, choose(keys, known.keys))
        middle = middle + self.from_draft(F.pixel_unshuffle(draft, _STRIDE))
        code = torch.cat([statistic.flatten(1) for statistic in statistics], dim=1).to(coarse.dtype)
        x = _act(self._steer(0, self.decode_coarse(_act(coarse)), code, alpha))
        x = middle + _up(self.up_middle(x), middle)
        x = _act(self._steer(1, self.decode_middle(_act(x)), code, alpha))
        x = self.skip_fine(fine) + _up(self.up_fine(x), fine)
        x = _act(self._steer(2, self.decode_fine(_act(x)), code, alpha))
        x = F.pixel_shuffle(self.to_pixels(x), 2)
        # At alpha = 1 the details are the patches' alone.
        x = torch.lerp(x, _smoothed(x), alpha)
        return (x + _cropped(draft, x) + 1) / 2

    def _restyled(
        self, features: LiteFeatures, statistics: Sequence[torch.Tensor], alpha: float
    ) -> Iterator[torch.Tensor]:
        """Yield AdaIN of each level, the wanted standard deviations scaled by the gates."""
        levels = (features.fine, features.middle, features.coarse)
        own = features.statistics
        for index, (level, gate) in enumerate(zip(levels, self.gates, strict=True)):
            mean, std = statistics[2 * index : 2 * index + 2]
            yield adain(level, mean, 2 * torch.sigmoid(gate) * std, alpha, (own[2 * index], own[2 * index + 1]))

    def _steer(self, number: int, x: torch.Tensor, code: torch.Tensor, alpha: float) -> torch.Tensor:
        scale, shift = self.steering[number](code)[:, :, None, None].chunk(2, dim=1)
        return x * (1 + alpha * scale) + alpha * shift


@register_stylizer
def adain_lite(weights: str | os.PathLike | None = None) -> AdainLite:
    """compact AdaIN at three scales, weights in the package.

    Args:
        weights: Safetensors file of `save_stylizer`; the one in the package where None.
    """
    return load_stylizer(AdainLite(), WEIGHTS if weights is None else weights)


def _conv(inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, padding_mode='reflect')


def _padded(x: torch.Tensor, multiple: int) -> torch.Tensor:
    below, right = (-length % multiple for length in x.shape[-2:])
    return F.pad(x, (0, right, 0, below), mode='replicate')


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode='bilinear')


def _steering(channels: int) -> nn.Linear:
    layer = nn.Linear(2 * sum(_CHANNELS), 2 * channels)
    nn.init.zeros_(layer.weight)  # Training starts from a decoder that the style does not steer.
    nn.init.zeros_(layer.bias)
    return layer


def _act(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.1)


def _up(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return _cropped(F.pixel_shuffle(x, 2), like)


def _smoothed(images: torch.Tensor) -> torch.Tensor:
    coarse = F.avg_pool2d(images, _SMOOTH, ceil_mode=True)
    return _cropped(F.interpolate(coarse, scale_factor=_SMOOTH, mode='bilinear'), images)


def _cropped(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return x[..., : like.shape[-2], : like.shape[-1]]  # Strides round odd sizes up.
