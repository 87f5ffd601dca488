"""Adversarial attacks in pixel space, against a model that normalises inside.

Perturbed images stay in [0, 1] and, up to float rounding, within `epsilon` of the original in L∞. Epsilon is in units
of the pixel range [0, 1]: 16/255 is 16 grey levels. An attack computes in float32, or in float64 where the images are
float64, whatever autocast says, also under `torch.inference_mode`. It neither changes the mode of the model, which the
caller puts in eval, nor adds to the gradients of its parameters.

An attack bounds robustness from above only: one that fails is no proof (Carlini et al., "On Evaluating Adversarial
Robustness", arXiv 1902.06705).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import DebiasError
from ..normalize import Normalize

Model = Callable[[torch.Tensor], torch.Tensor]
"""From images [B, 3, H, W] in [0, 1] to logits [B, classes]."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class PixelModel(nn.Module):
    """A classifier of normalised images as one of images in [0, 1]: normalises, then calls `model`.

    Args:
        model: From normalised images [B, 3, H, W] to logits [B, classes].
        mean: Mean of each channel that `model` expects, in [0, 1].
        std: Standard deviation of each channel, above 0.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.normalize = Normalize(mean, std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [B, classes] of images [B, 3, H, W] in [0, 1]."""
        return self.model(self.normalize(images))


def fgsm(model: Model, images: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return images moved by epsilon along the sign of the gradient of the cross-entropy.

    Goodfellow et al., "Explaining and Harnessing Adversarial Examples" (ICLR 2015). The gradient of an image that the
    model is all but certain of can vanish in float32; such an image stays as it is, and the attack looks weaker than
    it would be on the logits.

    Args:
        model: From images in [0, 1] to logits; see `PixelModel`.
        images: [B, 3, H, W] in [0, 1].
        labels: Class indices [B].
        epsilon: Largest change of a pixel, in [0, 1].

    Raises:
        DebiasError: images or epsilon outside [0, 1], or logits or a gradient that are not finite.
    """
    return _fgsm(model, images, labels, epsilon, _cross_entropy)


def fgsm_ref(model: Model, images: torch.Tensor, labels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return images moved by epsilon along the sign of the gradient of −z_y, the negative logit of their class.

    The protocol of imagenet.py in the reference implementation of Li et al. (ICLR 2021), which gives raw logits to
    `nll_loss`, with epsilon 16/255: for comparison with the figures of that paper alone. It lowers the logit of the
    class, whatever becomes of the others.

    Args and errors: as in `fgsm`.
    """
    return _fgsm(model, images, labels, epsilon, _negative_logit)


@torch.inference_mode(False)
def pgd(
    model: Model,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float,
    steps: int,
    step_size: float,
    restarts: int = 1,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> torch.Tensor:
    """Return images after projected gradient ascent on the cross-entropy from random starts.

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (ICLR 2018). A start is uniform in the
    epsilon ball; each step moves every pixel by `step_size` along the sign of the gradient, then back into the ball and
    into [0, 1]. Only images that the model still gets right are attacked again.

    Args:
        model: From images in [0, 1] to logits; see `PixelModel`.
        images: [B, 3, H, W] in [0, 1].
        labels: Class indices [B].
        epsilon: Largest change of a pixel, in [0, 1].
        steps: Gradient steps of each restart, at least 1.
        step_size: Change of a pixel in one step; steps · step_size should exceed epsilon.
        restarts: Random starts for each image, at least 1.
        generator: CPU source of the starts, torch's global one where None; or one for each image, so that an image has
            the same starts in whatever batch it comes. More restarts begin with those of fewer.

    Returns:
        For each image, the result of the first restart that fools the model, of the last one where none does.

    Raises:
        DebiasError: as in `fgsm`, or steps, step_size or restarts out of range.
    """
    images, labels = check_input(images, labels, epsilon)
    if steps < 1 or restarts < 1 or not 0 <= step_size < float('inf'):
        raise DebiasError(
            f'PGD with {steps} steps of size {step_size:g} and {restarts} restarts; expected at least 1 step, a finite '
            'size of at least 0 and at least 1 restart'
        )
    sources = generator if isinstance(generator, Sequence) else [generator] * len(images)
    adversarial = images.clone()
    right = torch.arange(len(images), device=images.device)
    for _ in range(restarts):
        noise = torch.stack([torch.rand(images.shape[1:], generator=source) for source in sources]).to(images)
        start = (images + epsilon * (2 * noise - 1)).clamp(0, 1)
        centre, label, moved = images[right], labels[right], start[right]
        for _ in range(steps):
            moved = moved + step_size * _gradient(model, moved, label, _cross_entropy).sign()
            moved = moved.clamp(centre - epsilon, centre + epsilon).clamp(0, 1)
        adversarial[right] = moved
        with torch.no_grad():
            right = right[logits_of(model, moved).argmax(dim=1) == label]
        if not len(right):
            break
    return adversarial


@torch.inference_mode(False)
def _fgsm(model: Model, images: torch.Tensor, labels: torch.Tensor, epsilon: float, loss: Loss) -> torch.Tensor:
    images, labels = check_input(images, labels, epsilon)
    return (images + epsilon * _gradient(model, images, labels, loss).sign()).clamp(0, 1)


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, labels, reduction='sum')  # A sum: no image's gradient depends on the batch size.


def _negative_logit(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.nll_loss(logits, labels, reduction='sum')


@torch.enable_grad()
def _gradient(model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss) -> torch.Tensor:
    """Return the gradient [B, 3, H, W] of the loss with respect to the images alone."""
    images = images.detach().requires_grad_()
    with torch.autocast(images.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(loss(logits_of(model, images), labels), images)
    _check_finite(gradient, 'the gradients')
    return gradient


def logits_of(model: Model, images: torch.Tensor) -> torch.Tensor:
    """Return logits [B, classes], computed without autocast.

    Raises:
        DebiasError: logits that are not finite.
    """
    with torch.autocast(images.device.type, enabled=False):
        logits = model(images)
    _check_finite(logits, 'the logits')
    return logits


def _check_finite(values: torch.Tensor, what: str) -> None:
    bad = ~values.isfinite().flatten(1).all(dim=1)
    if bad.any():
        raise DebiasError(
            f'attack: {what} of {int(bad.sum())} of {len(bad)} images are not finite (NaN or infinite); '
            'check the weights of the model'
        )


def check_input(images: torch.Tensor, labels: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images as float tensors and labels, both usable by autograd where they come from inference mode.

    Raises:
        DebiasError: images or epsilon outside [0, 1].
    """
    if not 0 <= epsilon <= 1:
        raise DebiasError(f'epsilon is {epsilon:g}; expected a share of the pixel range [0, 1], such as 16/255')
    images = images.detach().to(torch.float64 if images.dtype == torch.float64 else torch.float32, copy=True)
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise DebiasError(
            f'attack: images have values from {low:g} to {high:g}; expected images in [0, 1], normalised by the model '
            'itself (PixelModel)'
        )
    return images, labels.clone()
