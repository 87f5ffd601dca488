"""A compact style transfer network whose weights ship with the package."""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .base import Features, Style, Stylizer, adain, mean_std
from .registry import register_stylizer
from .weights import load_stylizer

WEIGHTS = Path(__file__).parent / 'weights' / 'adain_lite.safetensors'
"""The weights in the package."""

_CHANNELS = (24, 64, 128)  # At 1/2, 1/4 and 1/8 of the image's size.
_DECODER_CHANNELS = (32, 24)


class AdainLite(Stylizer):
    """Encoder and decoder with AdaIN at three scales, and a decoder steered by the style.

    AdaIN (Huang & Belongie, ICCV 2017) is applied at 1/2, 1/4 and 1/8 of the image's size, so that reconstruction is
    sharp. What passes at the finer scales at alpha = 1 is attenuated by a learned gate a channel, because the content's
    local texture lives there. The style's statistics also scale and shift the decoder's channels.
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
        self.decode_coarse = _conv(coarse, coarse)
        self.up_middle = nn.Conv2d(coarse, middle, 1)
        self.decode_middle = _conv(middle, middle)
        self.up_fine = nn.Conv2d(middle, joined, 1)
        self.skip_fine = nn.Conv2d(fine, joined, 1)
        self.decode_fine = _conv(joined, last)
        self.to_pixels = _conv(last, 3)
        # Gates are 2·sigmoid of these: nearly shut at the finest scale, open at the coarsest.
        starts = zip(_CHANNELS, (-3.0, -1.0, 0.0), strict=True)
        self.gates = nn.ParameterList([torch.full((1, channels, 1, 1), start) for channels, start in starts])
        self.steering = nn.ModuleList([_steering(channels) for channels in (coarse, middle, last)])

    def encode(self, images: torch.Tensor) -> Features:
        fine = self.encode_fine(2 * images - 1)
        middle = self.encode_middle(_act(fine))
        middle = middle + self.refine_middle(_act(middle))
        coarse = self.encode_coarse(_act(middle))
        return fine, middle, coarse + self.refine_coarse(coarse)

    def style(self, features: Features) -> Style:
        return tuple(statistic for level in features for statistic in mean_std(level))

    def decode(self, features: Features, style: Style, alpha: float) -> torch.Tensor:
        gates = [2 * torch.sigmoid(gate) for gate in self.gates]
        fine, middle, coarse = (
            adain(level, style[2 * number], style[2 * number + 1] * gates[number], alpha)
            for number, level in enumerate(features)
        )
        code = torch.cat([statistic.flatten(1) for statistic in style], dim=1).to(coarse.dtype)
        x = _act(self._steer(0, self.decode_coarse(_act(coarse)), code, alpha))
        x = middle + _up(self.up_middle(x), middle)
        x = _act(self._steer(1, self.decode_middle(_act(x)), code, alpha))
        x = self.skip_fine(fine) + _up(self.up_fine(x), fine)
        x = _act(self._steer(2, self.decode_fine(_act(x)), code, alpha))
        x = self.to_pixels(F.interpolate(x, scale_factor=2, mode='nearest'))
        return (x + 1) / 2

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


def _steering(channels: int) -> nn.Linear:
    layer = nn.Linear(2 * sum(_CHANNELS), 2 * channels)
    nn.init.zeros_(layer.weight)  # Training starts from a decoder that the style does not steer.
    nn.init.zeros_(layer.bias)
    return layer


def _act(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.1)


def _up(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    x = F.interpolate(x, scale_factor=2, mode='nearest')
    return x[..., : like.shape[-2], : like.shape[-1]]  # Strides round odd sizes up.
