"""AutoAttack, by its authors' package: an ensemble of four attacks without parameters to tune."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from .attacks import check_input, logits_of


@torch.inference_mode(False)
def auto_attack(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epsilon: float, seed: int
) -> torch.Tensor:
    """Return images after the standard version of AutoAttack.

    Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-Free Attacks"
    (ICML 2020): APGD on the cross-entropy, then against the images that are still right APGD on the DLR loss and FAB,
    both targeted at nine other classes, and Square with 5,000 queries.

    Args:
        model: From images in [0, 1] to logits of at least ten classes; see `PixelModel`.
        images: [B, 3, H, W] in [0, 1].
        labels: Class indices [B].
        epsilon: Largest change of a pixel, in [0, 1].
        seed: Of the random numbers, which are drawn for the batch: an image has others in another batch.

    Returns:
        For each image that an attack fools the model with, the result of that attack; the others as they were.

    Raises:
        DebiasError: as in `fgsm`.
        ImportError: the package pyautoattack is missing.
    """
    from pyautoattack import AutoAttack

    images, labels = check_input(images.float(), labels, epsilon)
    if epsilon == 0:
        return images
    # It warns about each batch, by shares of its images that mean nothing for a small one.
    logging.getLogger('auto-attack').setLevel(logging.ERROR)
    # It seeds torch's global generator.
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices), torch.enable_grad(), _frozen(list(model.parameters())):
        attack = AutoAttack(lambda batch: logits_of(model, batch), eps=epsilon, seed=seed, device=images.device)
        attacked, _ = attack.run_standard_evaluation(images, labels, batch_size=len(images))
    return attacked.detach()


@contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Keep gradients from parameters: FAB would add to them."""
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
