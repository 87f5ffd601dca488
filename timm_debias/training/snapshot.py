"""Copies of weights and of an optimizer's state, to go back to."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .fsdp import own_part


class TensorSnapshot:
    """Copies of tensors, taken again and again into the same memory."""

    def __init__(self) -> None:
        self._tensors: list[torch.Tensor] = []
        self._copies: list[torch.Tensor] = []

    @torch.no_grad()
    def take(self, tensors: Iterable[torch.Tensor]) -> None:
        """Copy the values of tensors, on their devices and without waiting for them."""
        tensors = [own_part(tensor.detach()) for tensor in tensors]
        if len(tensors) != len(self._copies) or any(
            tensor.shape != copy.shape or tensor.dtype != copy.dtype
            for tensor, copy in zip(tensors, self._copies, strict=True)
        ):
            self._copies = [tensor.clone() for tensor in tensors]
        else:
            _copy(self._copies, tensors)
        self._tensors = tensors

    @torch.no_grad()
    def restore(self) -> None:
        """Give the tensors the values that they had."""
        _copy(self._tensors, self._copies)


class OptimizerSnapshot:
    """The state of an optimizer: its tensors are copied, what else it holds is kept by value."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        # timm's Lookahead keeps its state in the optimizer that it wraps.
        self.optimizer: torch.optim.Optimizer = getattr(optimizer, '_base_optimizer', optimizer)
        self._tensors = TensorSnapshot()
        self._entries: dict[torch.Tensor, dict[str, Any]] = {}
        self._groups: list[dict[str, Any]] = []

    def take(self) -> None:
        """Copy the state as it is."""
        state = self.optimizer.state
        # A new dict for each parameter: entries that an update adds are not in it.
        self._entries = {parameter: dict(entry) for parameter, entry in state.items()}
        self._groups = [
            {name: value for name, value in group.items() if name not in ('params', 'lr')}
            for group in self.optimizer.param_groups
        ]
        holders = [*self._entries.values(), *self._groups]  # timm's LAMB has its step, a tensor, in the group.
        self._tensors.take(value for holder in holders for value in holder.values() if isinstance(value, torch.Tensor))

    def restore(self) -> None:
        """Bring the state back; that of parameters which had none is forgotten. Learning rates stay as they are."""
        self._tensors.restore()
        for parameter in list(self.optimizer.state):
            if parameter not in self._entries:
                del self.optimizer.state[parameter]
                continue
            entry = self.optimizer.state[parameter]
            entry.clear()
            entry.update(self._entries[parameter])
        for group, saved in zip(self.optimizer.param_groups, self._groups, strict=True):
            for name in [name for name in group if name not in saved and name not in ('params', 'lr')]:
                del group[name]
            group.update(saved)


def _copy(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy tensors; those of one device and dtype in a few kernel launches for all of them."""
    groups: dict[tuple[torch.device, torch.dtype], tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        group = groups.setdefault((target.device, target.dtype), ([], []))
        group[0].append(target)
        group[1].append(source)
    for group_targets, group_sources in groups.values():
        torch._foreach_copy_(group_targets, group_sources)
