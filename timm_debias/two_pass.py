"""Two passes in one forward, for clean and stylised images of different sizes."""

from typing import Any

import torch
from torch import nn

from .aux_bn import aux_bn_branch


class _TwoPass:
    """Mixin before a model's class: `model(clean, stylised)` returns the logits of both, `model(images)` is as before.

    DistributedDataParallel allows one forward a step, so both passes have to be inside it.
    """

    def forward(self: Any, images: torch.Tensor, stylised: torch.Tensor | None = None, **options: Any) -> Any:
        if stylised is None:
            return super().forward(images, **options)  # type: ignore[misc]
        with aux_bn_branch(self, 'main'):
            clean_logits = super().forward(images, **options)  # type: ignore[misc]
        with aux_bn_branch(self, 'aux'):
            return clean_logits, super().forward(stylised, **options)  # type: ignore[misc]


def convert_two_pass(model: nn.Module) -> nn.Module:
    """Let `model(clean, stylised)` pass clean images, then stylised ones of any size, and return the model.

    Clean images use the main batch norm, stylised ones the auxiliary one (`convert_aux_bn`). `model(images)`, state
    dict and module names stay as they are. Converting twice changes nothing.
    """
    if not isinstance(model, _TwoPass):
        # A change of class keeps parameters, names, hooks and shared references as they are; a wrapper would not.
        model.__class__ = type(type(model).__name__, (_TwoPass, type(model)), {})
    return model
