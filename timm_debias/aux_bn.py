"""Auxiliary batch norm: clean and stylised images are normalised with statistics and affine weights of their own.

Xie et al., "Adversarial Examples Improve Image Recognition" (CVPR 2020), as used by Li et al. (ICLR 2021). The module
keeps its name and its parameters, which serve the clean images (main); a child `aux_bn` serves the stylised ones.
"""

import contextlib
import logging
from collections import deque
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
_REMEMBERED = 64
"""Forwards of a module before a backward pass: two, but for modules that a model uses several times."""


class _AuxBatchNorm(nn.Module):
    """Mixin before a batch norm class: chooses between that batch norm (main) and the child `aux_bn`."""

    branch: Branch
    past_branches: deque[Branch]
    aux_bn: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        branch = self._branch_of_this_forward()
        if branch == 'main':
            return super().forward(x)
        if branch == 'aux':
            return self._activate(self.aux_bn(x))
        if x.shape[0] % 2:
            raise DebiasError(
                f'auxiliary batch norm expects [clean; stylised] halves of one batch, found {x.shape[0]} images'
            )
        if _fits_one_buffer(x, self):
            return self._activate(_normalize_halves(x, self, self.aux_bn))
        clean, stylised = x.chunk(2)
        return self._activate(torch.cat([self._normalize(clean), self.aux_bn(stylised)]))

    def _branch_of_this_forward(self) -> Branch:
        """Return the branch, also where gradient checkpointing computes a forward again, in the backward pass.

        By then `aux_bn_branch` has ended. The backward pass goes through forwards last to first, so what is computed
        again is the last forward that has not been yet.
        """
        if torch.compiler.is_compiling():
            return self.branch  # Part of the graph, forward and backward.
        if torch._C._current_graph_task_id() == -1:
            self.past_branches.append(self.branch)
            return self.branch
        return self.past_branches.pop()

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


def _fits_one_buffer(x: torch.Tensor, norm: Any) -> bool:
    # On other devices, batch norm may run in kernels (cuDNN) that write into no buffer of ours, and compiled, the copy
    # is one with the normalisation. torch's kernel takes dense tensors alone; one value a channel is an error, which
    # torch words better.
    return (
        x.device.type == 'cpu'
        and not torch.compiler.is_compiling()
        and not isinstance(norm, nn.SyncBatchNorm)
        and norm.momentum is not None
        and (x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)))
        and x.numel() > 2 * x.shape[1]
    )


def _normalize_halves(x: torch.Tensor, main: Any, aux: Any) -> torch.Tensor:
    """Return `torch.cat([main(clean), aux(stylised)])`, bit for bit, without the copy."""
    for norm in (main, aux):
        if norm.track_running_stats:
            norm.num_batches_tracked.add_(1)
    return _HalvesBatchNorm.apply(x, main.weight, main.bias, aux.weight, aux.bias, (main, aux))


class _HalvesBatchNorm(torch.autograd.Function):
    """Batch norm in train mode of the halves of a batch, each by parameters of its own, into one tensor.

    The backward pass does copy: no kernel writes the gradient of a batch norm where it is told to.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *arguments: Any) -> torch.Tensor:
        *parameters, norms = arguments
        output = torch.empty_like(x)
        saved = [x]
        for norm, half, output_half in zip(norms, x.chunk(2), output.chunk(2), strict=True):
            # Under autocast x is in half precision; statistics have the precision of parameters and running statistics.
            like = next(tensor for tensor in (norm.weight, norm.running_mean, x) if tensor is not None)
            mean, inverse_std = like.new_empty(norm.num_features), like.new_empty(norm.num_features)
            torch.ops.aten.native_batch_norm.out(
                half, norm.weight, norm.bias, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps,
                out=output_half, save_mean=mean, save_invstd=inverse_std,
            )  # fmt: skip
            saved += [mean, inverse_std]
        ctx.save_for_backward(*saved, parameters[0], parameters[2])
        ctx.eps = [norm.eps for norm in norms]
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        x, main_mean, main_inverse_std, aux_mean, aux_inverse_std, main_weight, aux_weight = ctx.saved_tensors
        statistics = ((main_weight, main_mean, main_inverse_std), (aux_weight, aux_mean, aux_inverse_std))
        affine = main_weight is not None
        halves = [
            torch.ops.aten.native_batch_norm_backward(
                gradient, half, weight, None, None, mean, inverse_std, True, eps, [True, affine, affine]
            )
            for gradient, half, eps, (weight, mean, inverse_std) in zip(
                gradients[0].chunk(2), x.chunk(2), ctx.eps, statistics, strict=True
            )
        ]
        (clean, *main), (stylised, *aux) = halves
        return torch.cat([clean, stylised]), *main, *aux, None


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
    norm.past_branches = deque(maxlen=_REMEMBERED)


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
