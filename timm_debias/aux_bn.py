"""Auxiliary batch norm: clean and stylised images are normalised with statistics and affine weights of their own.

Xie et al., "Adversarial Examples Improve Image Recognition" (CVPR 2020), as used by Li et al. (ICLR 2021). The module
keeps its name and its parameters, which serve the clean images (main); a child `aux_bn` serves the stylised ones.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import nn

from .errors import DebiasError

_logger = logging.getLogger(__name__)

Branch = Literal['main', 'aux', 'split']
"""Which batch norm a training forward uses: `split` takes [clean; stylised], halves of one batch."""

_AUX_KEY = '.aux_bn.'


class _AuxBatchNorm(nn.Module):
    """Mixin before a batch norm class: chooses between that batch norm (main) and the child `aux_bn`."""

    branch: Branch
    aux_bn: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.branch == 'main':
            return super().forward(x)
        if self.branch == 'aux':
            return self._activate(self.aux_bn(x))
        if x.shape[0] % 2:
            raise DebiasError(
                f'auxiliary batch norm expects [clean; stylised] halves of one batch, found {x.shape[0]} images'
            )
        clean, stylised = x.chunk(2)
        return self._activate(torch.cat([self._normalize(clean), self.aux_bn(stylised)]))

    def _normalize(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the main batch norm without the activation that timm fuses into some."""
        return super().forward(x)

    def _activate(self, x: torch.Tensor) -> torch.Tensor:
        return x


class _AuxBatchNormAct(_AuxBatchNorm):
    """Mixin before timm's fused batch norm + activation, whose dropout and activation see the joined batch."""

    drop: nn.Module
    act: nn.Module

    def _activate(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(x))


class AuxBatchNorm1d(_AuxBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` with an auxiliary one; takes [B·N, C] tokens too, where images come one after the other."""


class AuxBatchNorm2d(_AuxBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` with an auxiliary one."""


class AuxSyncBatchNorm(_AuxBatchNorm, nn.SyncBatchNorm):
    """`nn.SyncBatchNorm` with an auxiliary one."""


class AuxBatchNormAct2d(_AuxBatchNormAct, BatchNormAct2d):
    """timm's `BatchNormAct2d` with an auxiliary batch norm; dropout and activation are shared."""

    def _normalize(self, x: torch.Tensor) -> torch.Tensor:
        return nn.BatchNorm2d.forward(self, x)


class AuxSyncBatchNormAct(_AuxBatchNormAct, SyncBatchNormAct):
    """timm's `SyncBatchNormAct` with an auxiliary batch norm; dropout and activation are shared."""

    def _normalize(self, x: torch.Tensor) -> torch.Tensor:
        return nn.SyncBatchNorm.forward(self, x)


# Batch norm class -> (class that takes its place, class of the auxiliary one).
_AUX_CLASSES: dict[type[nn.Module], tuple[type[_AuxBatchNorm], type[nn.Module]]] = {
    nn.BatchNorm1d: (AuxBatchNorm1d, nn.BatchNorm1d),
    nn.BatchNorm2d: (AuxBatchNorm2d, nn.BatchNorm2d),
    nn.SyncBatchNorm: (AuxSyncBatchNorm, nn.SyncBatchNorm),
    BatchNormAct2d: (AuxBatchNormAct2d, nn.BatchNorm2d),
    SyncBatchNormAct: (AuxSyncBatchNormAct, nn.SyncBatchNorm),
}


def convert_aux_bn(model: nn.Module) -> nn.Module:
    """Give every batch norm of `model` an auxiliary one, in place, and return the model.

    The auxiliary batch norm starts as a copy of the main one, so a pretrained model keeps its statistics. In eval mode,
    and in train mode outside `aux_bn_branch`, the model computes bit for bit what it computed before. Converts
    BatchNorm1d, BatchNorm2d, SyncBatchNorm and timm's BatchNormAct2d and SyncBatchNormAct; synchronise first, convert
    second, because a later conversion to SyncBatchNorm would drop the auxiliary ones. A model without batch norm is
    returned as it is, with a line in the log. Converting twice changes nothing.

    Raises:
        DebiasError: a batch norm of another class, named; nothing has been converted then.
    """
    norms = {name: module for name, module in model.named_modules() if _is_convertible(name, module)}
    converted = any(isinstance(module, _AuxBatchNorm) for module in model.modules())
    if not norms and not converted:
        _logger.info(f'{type(model).__name__} has no batch norm: clean and stylised images share every layer.')
    for norm in norms.values():
        _convert(norm)
    return model


def _is_convertible(name: str, module: nn.Module) -> bool:
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return False
    if isinstance(module, _AuxBatchNorm) or name.endswith('.aux_bn') or name == 'aux_bn':
        return False
    if type(module) not in _AUX_CLASSES:
        known = ', '.join(cls.__name__ for cls in _AUX_CLASSES)
        raise DebiasError(
            f"'{name}' is a {type(module).__name__}, which cannot get an auxiliary batch norm (known: {known}); "
            'train without it (--no-debias-aux-bn)'
        )
    return True


def _convert(norm: Any) -> None:
    # A change of class, rather than a new module, keeps parameters, buffers, hooks and shared references as they are.
    aux_class, norm_class = _AUX_CLASSES[type(norm)]
    options = {'process_group': norm.process_group} if isinstance(norm, nn.SyncBatchNorm) else {}
    aux = norm_class(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, **options)
    state = norm.state_dict()
    aux.load_state_dict({key: state[key] for key in aux.state_dict()})
    reference = next((tensor for tensor in state.values() if tensor.is_floating_point()), None)
    if reference is not None:
        aux.to(device=reference.device, dtype=reference.dtype)
    aux.train(norm.training)
    norm.__class__ = aux_class
    norm.aux_bn = aux
    norm.branch = 'main'


@contextlib.contextmanager
def aux_bn_branch(model: nn.Module, branch: Branch) -> Iterator[None]:
    """Select the batch norm that training forwards of `model` use inside the `with` block.

    Args:
        model: A converted model, or anything that wraps one.
        branch: `main` for clean images, `aux` for stylised ones, `split` for [clean; stylised] in one batch. Eval mode
            always uses main.
    """
    norms = [module for module in model.modules() if isinstance(module, _AuxBatchNorm)]
    before = [norm.branch for norm in norms]
    try:
        for norm in norms:
            norm.branch = branch
        yield
    finally:
        for norm, old in zip(norms, before, strict=True):
            norm.branch = old


def split_aux_state(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a state dict into the keys of the plain timm model and the auxiliary ones (`….aux_bn.…`)."""
    plain = {key: value for key, value in state.items() if not _is_aux_key(key)}
    return plain, {key: value for key, value in state.items() if _is_aux_key(key)}


def _is_aux_key(key: str) -> bool:
    return _AUX_KEY in f'.{key}'
