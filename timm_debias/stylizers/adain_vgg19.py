"""The style transfer network of the paper: AdaIN on VGG-19 features (Huang & Belongie, ICCV 2017)."""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..downloads import download
from ..errors import DebiasError
from ..weight_files import load_state
from .base import Features, Style, Stylizer, adain, mean_std
from .registry import register_stylizer
from .weights import FLAGS, load_stylizer, read_checkpoint

ENCODER_FILE = 'vgg_normalised.pth'
DECODER_FILE = 'decoder.pth'
RELEASE = 'https://github.com/naoto0804/pytorch-AdaIN/releases/download/v0.0.0'
"""Where the two files are published."""

_NEEDED = (
    f'The network needs {ENCODER_FILE} and {DECODER_FILE} from {RELEASE}/: put both into a folder and name it with '
    f'{FLAGS}. The stylizer adain_lite needs no download.'
)

_MAX_BYTES = 200 << 20
"""The encoder's file has 20 M weights of four bytes."""

_DEEPER = [f'{index}.{kind}' for index in (32, 35, 38, 42, 45, 48, 51) for kind in ('weight', 'bias')]
"""Layers of the encoder's file behind relu4_1."""

STYLE_LAYERS = (3, 10, 17, 30)
"""Children of the encoder that give relu1_1, relu2_1, relu3_1 and relu4_1."""


class AdainVgg19(Stylizer):
    """VGG-19 to relu4_1, AdaIN there, and the mirrored decoder, in the layout of the pytorch-AdaIN release.

    The encoder's first 1×1 convolution holds the normalisation of its input; its activations are scaled to mean 1, so
    other weights of VGG-19 do not fit the decoder.
    """

    architecture = 'adain_vgg19'

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 3, 1),
            *_layer(3, 64),
            *_layer(64, 64),
            _pool(),
            *_layer(64, 128),
            *_layer(128, 128),
            _pool(),
            *_layer(128, 256),
            *_layer(256, 256),
            *_layer(256, 256),
            *_layer(256, 256),
            _pool(),
            *_layer(256, 512),
        )
        self.decoder = nn.Sequential(
            *_layer(512, 256),
            *_upsampling_layer(256, 256),
            *_layer(256, 256),
            *_layer(256, 256),
            *_layer(256, 128),
            *_upsampling_layer(128, 128),
            *_layer(128, 64),
            *_upsampling_layer(64, 64),
            *_layer(64, 3)[:-1],
        )
        self.to(memory_format=torch.channels_last)

    def encode(self, images: torch.Tensor) -> Features:
        # Faster than channels first; every layer behind keeps the layout.
        return (_one_by_one(self.encoder, images.contiguous(memory_format=torch.channels_last)),)

    def style(self, features: Features) -> Style:
        return mean_std(features[0])

    def decode(self, features: Features, style: Style, alpha: float) -> torch.Tensor:
        mean, std = style
        return _one_by_one(self.decoder, adain(features[0], mean, std, alpha))

    def style_features(self, images: torch.Tensor) -> Features:
        """Return relu1_1, relu2_1, relu3_1 and relu4_1 of `images` [B, 3, H, W], what the paper's losses compare."""
        features = []
        for index, layer in enumerate(self.encoder):
            images = layer(images)
            if index in STYLE_LAYERS:
                features.append(images)
        return tuple(features)


def _one_by_one(network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    # On a CPU the activations of a whole batch leave the caches, and memory is fetched anew from the system for each.
    if batch.device.type == 'cpu' and len(batch) > 1:
        return torch.cat([network(image) for image in batch.split(1)])
    return network(batch)


def _layer(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3), nn.ReLU(inplace=True)]


def _upsampling_layer(inputs: int, outputs: int) -> list[nn.Module]:
    # The identities keep the release's numbering, in which upsampling and padding come before the convolution.
    return [nn.Identity(), nn.Identity(), UpsamplingConv2d(inputs, outputs), nn.ReLU(inplace=True)]


def _pool() -> nn.Module:
    return nn.MaxPool2d(2, 2, ceil_mode=True)


class UpsamplingConv2d(nn.Conv2d):
    """Nearest ×2 upsampling, reflection padding and a 3×3 convolution in one, for 4/9 of the multiplications.

    Of the nine weights at an output pixel, those that fall on copies of one input pixel are added up first, which
    leaves a 2×2 convolution of the small image for each of the four positions in a 2×2 block of the output. The border
    that reflection adds to the enlarged image is a copy of the small image's first or last row or column.
    """

    joined: torch.Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)
        # Above an even row lies another input row, and its own below; with odd rows it is the other way round.
        even, odd = [[1.0, 0, 0], [0, 1, 1]], [[1.0, 1, 0], [0, 0, 1]]
        self.register_buffer('joined', torch.tensor([even, odd]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, C', 2·H, 2·W] for `x` [B, C, H, W]."""
        height, width = x.shape[-2:]
        weights = torch.einsum('ayk,bxl,oikl->aboiyx', self.joined, self.joined, self.weight)
        x = F.pad(x, (1, 1, 1, 1), mode='replicate').contiguous(memory_format=torch.channels_last)
        blocks = {}
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = weights[a, b].contiguous(memory_format=torch.channels_last)
            blocks[a, b] = F.conv2d(x[:, :, a : a + height + 1, b : b + width + 1], weight, self.bias)
        output = torch.empty(
            (len(x), self.out_channels, 2 * height, 2 * width),
            dtype=blocks[0, 0].dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        for (a, b), block in blocks.items():
            output[:, :, a::2, b::2] = block
        return output


def load_encoder(stylizer: AdainVgg19, path: str | os.PathLike) -> None:
    """Load `vgg_normalised.pth` into the encoder of `stylizer`.

    Raises:
        DebiasError: the file is missing, damaged or of another layout.
    """
    load_state(stylizer.encoder, read_checkpoint(path), path, ignore=_DEEPER)


@register_stylizer
def adain_vgg19(weights: str | os.PathLike | None = None) -> Stylizer:
    """the paper's network, weights of the AdaIN release.

    Args:
        weights: Folder with `vgg_normalised.pth` and `decoder.pth`, or a safetensors file that `save_stylizer` wrote
            (or a folder with `adain_vgg19.safetensors`). Default: torch's cache, downloaded at first use.
    """
    stylizer = AdainVgg19()
    folder = _download() if weights is None else Path(weights)
    if not folder.exists():
        raise DebiasError(f'{folder}: no such file or folder. {_NEEDED}')
    if not folder.is_dir() or (folder / f'{stylizer.architecture}.safetensors').is_file():
        return load_stylizer(stylizer, folder)
    absent = [name for name in (ENCODER_FILE, DECODER_FILE) if not (folder / name).is_file()]
    if absent:
        raise DebiasError(f'{folder}: {" and ".join(absent)} not found. {_NEEDED}')
    load_encoder(stylizer, folder / ENCODER_FILE)
    load_state(stylizer.decoder, read_checkpoint(folder / DECODER_FILE), folder / DECODER_FILE)
    return stylizer


def _download() -> Path:
    """Return the folder of torch's cache with both files, downloading what is missing."""
    folder = Path(torch.hub.get_dir()) / 'checkpoints' / 'adain_vgg19'
    for name in (ENCODER_FILE, DECODER_FILE):
        if (folder / name).is_file():
            continue
        try:
            download(f'{RELEASE}/{name}', folder / name, check=read_checkpoint, max_bytes=_MAX_BYTES)
        except DebiasError as error:
            raise DebiasError(f'adain_vgg19: {name} could not be downloaded ({error}). {_NEEDED}') from error
    return folder
