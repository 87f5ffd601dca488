"""The dual-target loss: one label for the shape, one for the texture."""

import torch
from timm.loss import (
    BinaryCrossEntropy,
    LabelSmoothingCrossEntropy,
    PolyCrossEntropy,
    SoftTargetCrossEntropy,
)
from torch import nn

from .errors import DebiasError

_LINEAR_LOSSES = (
    nn.CrossEntropyLoss,
    nn.BCEWithLogitsLoss,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
    BinaryCrossEntropy,
    PolyCrossEntropy,
)


class DualTargetLoss(nn.Module):
    """γ · L(o, shape) + (1 − γ) · L(o, texture), equation 2 of Li et al. (ICLR 2021).

    L has to be linear in its target, so that the sum equals L on the soft target γ · shape + (1 − γ) · texture and
    has its minimum where the prediction is that mixture: cross-entropy with or without label smoothing or soft
    targets, binary cross-entropy, poly-1 cross-entropy.

    Args:
        base: L, one of the losses above, with a mean over the batch.
        gamma: Weight of the shape's label in [0, 1]: 0.8 debiased, 1 shape-biased, 0 texture-biased.

    Raises:
        DebiasError: gamma outside [0, 1], or a base that is not linear in its target.
    """

    def __init__(self, base: nn.Module, gamma: float = 0.8) -> None:
        super().__init__()
        if not 0 <= gamma <= 1:
            raise DebiasError(f"gamma is {gamma}; the weight of the shape's label lies in [0, 1]")
        check_linear(base)
        self.base = base
        self.gamma = gamma

    def forward(
        self, logits: torch.Tensor, shape_target: torch.Tensor, texture_target: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss, a scalar.

        Args:
            logits: [B, C].
            shape_target: Class indices [B], or soft targets [B, C] where the base takes them.
            texture_target: The same for the texture; None for clean images, whose shape and texture are one class.
        """
        if texture_target is None:
            return self.base(logits, shape_target)
        if self.gamma == 1:
            return self.base(logits, shape_target)
        if self.gamma == 0:
            return self.base(logits, texture_target)
        return self.gamma * self.base(logits, shape_target) + (1 - self.gamma) * self.base(logits, texture_target)


def check_linear(base: nn.Module) -> None:
    """Raise `DebiasError` unless `base` is a loss known to be linear (or affine) in its target."""
    name = type(base).__name__
    if type(base) not in _LINEAR_LOSSES:
        known = ', '.join(cls.__name__ for cls in _LINEAR_LOSSES)
        raise DebiasError(
            f'{name} is not known to be linear in its target, which two labels for one image need; use one of {known}'
        )
    if isinstance(base, BinaryCrossEntropy) and base.target_threshold is not None:
        raise DebiasError(
            f'{name} with a target threshold is not linear in its target, which two labels for one image need; '
            'leave --bce-target-thresh out'
        )
    if isinstance(base, nn.CrossEntropyLoss) and base.weight is not None:
        raise DebiasError(
            f"{name} with class weights divides by the weights of the batch's targets, so it is not linear in them; "
            'leave the weights out'
        )
