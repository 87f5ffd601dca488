"""The precision of the forward pass, and the scaler of the loss that float16 needs."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from timm.utils import NativeScaler, dispatch_clip_grad

from ..machine import Machine
from .config import TrainConfig


class LossScaler(NativeScaler):
    """timm's scaler; between `backward` and `step`, gradients can be looked at and the loss computed again."""

    def backward(self, loss: torch.Tensor, create_graph: bool = False) -> None:
        """Add the gradients of the scaled loss."""
        self._scaler.scale(loss).backward(create_graph=create_graph)

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        clip_grad: float | None = None,
        clip_mode: str = 'norm',
        parameters: Iterable[torch.Tensor] | None = None,
    ) -> None:
        """Update the weights, or where a gradient has overflowed lower the scale instead."""
        if clip_grad is not None:
            self._scaler.unscale_(optimizer)
            dispatch_clip_grad(parameters, clip_grad, mode=clip_mode)
        self._scaler.step(optimizer)
        self._scaler.update()

    @property
    def scale(self) -> float:
        """Factor on the loss; torch's scaler has waited for the device already when it steps."""
        return self._scaler.get_scale()


def autocast_of(config: TrainConfig, machine: Machine) -> AbstractContextManager:
    """Return the context of a forward pass, as `--amp` asks for it."""
    if not config.device.amp:
        return nullcontext()
    return torch.autocast(device_type=machine.device.type, dtype=getattr(torch, config.device.amp_dtype))


def scaler_of(config: TrainConfig, machine: Machine) -> LossScaler | None:
    """Return the scaler of the loss for float16 on CUDA, None for other precisions."""
    needs_scaler = config.device.amp and machine.device.type == 'cuda' and config.device.amp_dtype == 'float16'
    return LossScaler(device=machine.device.type) if needs_scaler else None
