"""What every stylizer offers, and the arithmetic of adaptive instance normalisation."""

from collections.abc import Callable

import torch
from torch import nn

from ..errors import DebiasError

MIN_SIZE = 16
"""Smallest height and width, in pixels, that a stylizer takes."""

_EPS = 1e-5
"""Added to variances, so that constant features have a standard deviation to divide by."""

Features = tuple[torch.Tensor, ...]
"""What `encode` returns: tensors whose first dimension counts images."""

Style = tuple[torch.Tensor, ...]
"""What `style` returns: tensors whose first dimension counts images, independent of the images' size."""


class Stylizer(nn.Module):
    """Gives one image the texture of another and keeps its shape.

    A subclass writes three methods: `encode(images)`, `style(features)` and `decode(features, style, alpha)`.
    Everything below follows from them. Images are float tensors [B, 3, H, W] in [0, 1], H and W from `MIN_SIZE` up.
    Outputs have the shape of the content and are not clamped (Li et al. 2021 train on the decoder's raw output).
    """

    architecture: str = ''
    """Name that goes into files of this network's weights, so that they are not loaded into another."""

    def encode(self, images: torch.Tensor) -> Features:
        """Return the features of `images` [B, 3, H, W]."""
        raise TypeError(f'{type(self).__name__} does not define encode()')

    def style(self, features: Features) -> Style:
        """Return what `decode` needs to know of the images that `features` came from."""
        raise TypeError(f'{type(self).__name__} does not define style()')

    def decode(self, features: Features, style: Style, alpha: float) -> torch.Tensor:
        """Return the images of `features` in `style`, [B, 3, H', W'] with H' ≥ H and W' ≥ W."""
        raise TypeError(f'{type(self).__name__} does not define decode()')

    def forward(self, content: torch.Tensor, style: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
        """Return `content` [B, 3, H, W] with the texture of `style` [B, 3, H', W'].

        Args:
            content: Images that give the shape.
            style: Images that give the texture, as many as `content`, of any size.
            alpha: Strength in [0, 1]; 0 reconstructs the content.

        Raises:
            DebiasError: images too small, of another shape than [B, 3, H, W], with NaN or infinite pixels (looked for
                on the CPU alone), or alpha outside [0, 1].
        """
        _check_images(style, 'style')
        return self.restyle(content, self.style(self.encode(style)), alpha)

    def mix(self, images: torch.Tensor, permutation: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
        """Return `self(images, images[permutation], alpha)` at the cost of one encoding instead of two.

        Args:
            images: [B, 3, H, W].
            permutation: [B] integer tensor: image i gets the texture of image permutation[i].
            alpha: Strength in [0, 1].
        """
        return self.mix_by(images, lambda styles: styles[permutation], alpha)

    def mix_by(
        self, images: torch.Tensor, pick: Callable[[torch.Tensor], torch.Tensor], alpha: float = 1.0
    ) -> torch.Tensor:
        """Return `images` with the styles that `pick` chooses of them, or takes from elsewhere.

        Args:
            images: [B, 3, H, W].
            pick: Called with each tensor [B, …] of the images' styles; returns that of the wanted styles, [B, …].
            alpha: Strength in [0, 1].
        """
        _check_images(images, 'images')
        _check_alpha(alpha)
        features = self.encode(images)
        style = tuple(pick(tensor) for tensor in self.style(features))
        return self.cropped(self.decode(features, style, alpha), images)

    def restyle(self, content: torch.Tensor, style: Style, alpha: float = 1.0) -> torch.Tensor:
        """Return `content` [B, 3, H, W] in a `style` that `self.style` returned before, for B images."""
        _check_images(content, 'content')
        _check_alpha(alpha)
        return self.cropped(self.decode(self.encode(content), style, alpha), content)

    @staticmethod
    def cropped(images: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return `images`, as `decode` gives them, without the rows and columns that go beyond those of `like`."""
        # Strided encoders round sizes up, so a decoder may return a few rows and columns too many at the lower right.
        return images[..., : like.shape[-2], : like.shape[-1]]


def mean_std(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation over H×W of [B, C, H, W] features, each [B, C, 1, 1] in float32.

    std = sqrt(unbiased variance + 1e-5), as in Huang & Belongie, "Arbitrary Style Transfer in Real-time with Adaptive
    Instance Normalization" (ICCV 2017), and its PyTorch port. Float32 whatever the autocast state: sums over thousands
    of half-precision activations overflow or lose their digits.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.float()
        mean = features.mean((2, 3), keepdim=True)
        # torch.var_mean gives the same and takes ten times as long on a CPU.
        variance = (features - mean).square().sum((2, 3), keepdim=True) / (features.shape[2] * features.shape[3] - 1)
        return mean, (variance + _EPS).sqrt()


def adain(
    features: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    alpha: float,
    own: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return alpha · AdaIN(features) + (1 − alpha) · features for a style of the given `mean` and `std`.

    Args:
        features: [B, C, H, W].
        mean: [B, C, 1, 1].
        std: [B, C, 1, 1].
        alpha: Strength in [0, 1].
        own: `mean_std(features)` where it is known already.
    """
    own_mean, own_std = own if own is not None else mean_std(features)
    with torch.autocast(features.device.type, enabled=False):
        # Both terms are affine in the features, so one scale and one shift a channel say it all.
        scale = alpha * std / own_std + (1 - alpha)
        shift = alpha * (mean - std / own_std * own_mean)
        return torch.addcmul(shift, features.float(), scale).to(features.dtype)


def _check_images(images: torch.Tensor, what: str) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise DebiasError(
            f'{what}: expected float images [B, 3, H, W] in [0, 1], found {images.dtype} {list(images.shape)}'
        )
    if min(images.shape[-2:]) < MIN_SIZE:
        height, width = images.shape[-2:]
        raise DebiasError(f'{what}: {height}×{width} pixels; stylizers need at least {MIN_SIZE}×{MIN_SIZE}')
    # On an accelerator the check would make each step wait for the device.
    if images.device.type == 'cpu' and not torch.compiler.is_compiling():
        finite = images.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            wrong = (~finite).nonzero().flatten().tolist()
            raise DebiasError(f'{what}: NaN or infinite pixels in image {wrong[0]} of {len(images)} of the batch')


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise DebiasError(f'alpha is {alpha}; the strength of stylisation lies in [0, 1]')
