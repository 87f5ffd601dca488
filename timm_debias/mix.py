"""Shape-texture mixing: each image of a batch gets the texture of another one."""

import torch
import torch.nn.functional as F

from .errors import DebiasError
from .normalize import Normalize, at_least_float32
from .style_bank import StyleBank
from .stylizers import Stylizer


def draw_partners(count: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return a permutation [count] on the CPU that leaves nothing in place, each with the same probability.

    Raises:
        DebiasError: fewer than two images.
    """
    if count < 2:
        raise DebiasError(f'a batch of {count} has no texture partners; use at least 2 images a batch')
    positions = torch.arange(count)
    while True:  # A permutation has no fixed point with probability 1/e, so this takes e draws on average.
        partners = torch.randperm(count, generator=generator)
        if not (partners == positions).any():
            return partners


def finite_images(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [B, C, H, W], zeros in place of those that hold a NaN or an infinite value, and which do not, [B].

    Nothing waits for the device.
    """
    finite = images.isfinite().flatten(1).all(dim=1)
    return images.where(finite[:, None, None, None], 0), finite


def nan_unless(finite: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return `values`, NaN instead where one of `finite` [B] is false."""
    return values.where(finite.all(), torch.nan)


class ShapeTextureMix:
    """Draws a texture partner for every image of a batch (`sample`), then stylises (`apply`).

    Li et al., "Shape-Texture Debiased Neural Network Training" (ICLR 2021), section 3. Partners are a uniformly drawn
    permutation of the batch that leaves no image in place; the reference draws any permutation, so that about one
    image a batch is its own partner and only repeats its clean self.

    Not an `nn.Module`, so that nothing which walks over a model's modules (optimizers, DDP, EMA, checkpoints) meets the
    stylizer.

    Args:
        stylizer: Style transfer; see `create_stylizer`. Frozen, and moved to the device and precision of the images.
        alpha: Strength of stylisation in [0, 1]; the paper uses 0.5.
        generator: CPU source of the partners; torch's global one where None.
    """

    def __init__(self, stylizer: Stylizer, alpha: float = 0.5, generator: torch.Generator | None = None) -> None:
        _check_alpha(alpha)
        self.stylizer = stylizer.eval().requires_grad_(False)
        self.alpha = alpha
        self.generator = generator

    def sample(self, batch_size: int) -> torch.Tensor:
        """Return partners, a [B] int64 tensor on the CPU: image i gets the texture of image partners[i].

        Raises:
            DebiasError: a batch of fewer than two images.
        """
        return draw_partners(batch_size, self.generator)

    @torch.no_grad()
    def apply(
        self, images: torch.Tensor, labels: torch.Tensor, partners: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stylise `images` [B, 3, H, W] in [0, 1] and pick the labels of their `partners`.

        Returns:
            Stylised images, [B, 3, H, W], not clamped, and the texture's labels, of the shape of `labels`.
        """
        partners = partners.to(images.device, non_blocking=True)
        pixels = at_least_float32(images)
        stylised = self.stylizer.to(pixels).mix(pixels, partners, self.alpha)
        return stylised.to(images.dtype), labels[partners]

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sample partners and apply them: (images, labels) -> (stylised images, texture labels)."""
        return self.apply(images, labels, self.sample(images.shape[0]))

    def as_mixup_fn(
        self,
        num_classes: int,
        gamma: float = 0.8,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
        smoothing: float = 0.0,
    ) -> 'ShapeTextureMixup':
        """Return a callable for the `mixup_fn` slot of a timm training loop; see `ShapeTextureMixup`."""
        return ShapeTextureMixup(self, Normalize(mean, std), num_classes, gamma, smoothing)


class StyleBankMix:
    """Draws a style of a bank for every image of a batch (`sample`), then stylises (`apply`).

    As training on Stylized-ImageNet does it (Geirhos et al., ICLR 2019): styles are textures or paintings, which have
    no label. It stands where a `ShapeTextureMix` stands.

    Args:
        bank: The styles, and the stylizer they were taken with.
        alpha: Strength of stylisation in [0, 1]; 1 for Stylized-ImageNet.
        generator: CPU source of the styles; torch's global one where None.
    """

    def __init__(self, bank: StyleBank, alpha: float = 1.0, generator: torch.Generator | None = None) -> None:
        _check_alpha(alpha)
        self.bank = bank
        self.stylizer = bank.stylizer.eval().requires_grad_(False)
        self.alpha = alpha
        self.generator = generator

    def sample(self, batch_size: int) -> torch.Tensor:
        """Return numbers of styles, a [B] int64 tensor on the CPU, each drawn with the same probability."""
        return torch.randint(len(self.bank), (batch_size,), generator=self.generator)

    @torch.no_grad()
    def apply(self, images: torch.Tensor, labels: torch.Tensor, styles: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Stylise `images` [B, 3, H, W] in [0, 1] with `styles` of the bank.

        Returns:
            Stylised images, [B, 3, H, W], not clamped, and None in place of the texture's labels.
        """
        pixels = at_least_float32(images)
        style = tuple(tensor[styles].to(pixels) for tensor in self.bank.styles)
        return self.stylizer.to(pixels).restyle(pixels, style, self.alpha).to(images.dtype), None


class ShapeTextureMixup:
    """(images, class indices) -> (2n images, soft targets [2n, C]), as timm's loops call their `mixup_fn`.

    The images go in normalised, as timm's loaders hand them out, and come back as [clean; stylised], normalised. The
    target of a stylised image is γ · shape label + (1 − γ) · texture label, to be used with a loss on soft targets.
    Where a stylised image is not finite, zeros take its place and the targets of all stylised images are NaN.
    `mixup_enabled = False`, which timm sets after `--mixup-off-epoch`, returns clean images and soft targets alone.
    """

    def __init__(
        self, mix: ShapeTextureMix, normalize: Normalize, num_classes: int, gamma: float, smoothing: float
    ) -> None:
        self.mix = mix
        self.normalize = normalize
        self.num_classes = num_classes
        self.gamma = gamma
        self.smoothing = smoothing
        self.mixup_enabled = True

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shape_target = F.one_hot(labels, self.num_classes).float()
        shape_target = shape_target * (1 - self.smoothing) + self.smoothing / self.num_classes
        if not self.mixup_enabled:
            return images, shape_target
        normalize = self.normalize.to(images.device)
        stylised, texture_target = self.mix(normalize.inverse(images), shape_target)
        stylised, finite = finite_images(stylised)
        stylised_target = nan_unless(finite, self.gamma * shape_target + (1 - self.gamma) * texture_target)
        return torch.cat([images, normalize(stylised)]), torch.cat([shape_target, stylised_target])


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise DebiasError(f'alpha is {alpha}; the strength of stylisation lies in [0, 1]')
