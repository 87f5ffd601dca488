"""Fully sharded training, `--fsdp`: each process holds a part of the weights, gradients and optimizer state.

FSDP2, `torch.distributed.fsdp.fully_shard` (Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data
Parallel", VLDB 2023). timm's tasks know no sharded models, and need not: the model stays the module it is, and only its
parameters become distributed tensors. What is here is where to shard, and the way between the parts that the processes
have and the whole tensors of checkpoints.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from timm.task.task import TrainingTask
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from ..errors import DebiasError, reason
from ..machine import Machine
from .config import TrainConfig

OPTIMIZERS = (
    'sgd', 'momentum', 'sgdw', 'nesterov', 'nesterovw', 'adam', 'adamw', 'nadam', 'nadamw', 'radam', 'radamw', 'adamax',
    'adabelief', 'radabelief', 'adagrad', 'adadelta', 'adan', 'adanw', 'adopt', 'adoptw', 'laprop', 'lion', 'rmsprop',
    'rmsproptf',
)  # fmt: skip
"""Those that treat each weight on its own, so that parts of parameters are as good as whole ones (tests/test_fsdp.py).

Others compute norms, factors or products of whole weights: lamb, muon and adafactor give something else on parts, adamp
and mars fail.
"""


def check_fsdp(config: TrainConfig) -> None:
    """Raise `DebiasError` for the first flag that does not go with `--fsdp`."""
    if not config.device.fsdp:
        return
    model, optimizer = config.model, config.optimizer
    refused = {
        '--torchcompile': (model.torchcompile, 'the layers are put together and taken apart while the model runs'),
        '--torchscript': (model.torchscript, 'a scripted model cannot be taken apart'),
        '--channels-last': (model.channels_last, 'FSDP shards weights in their default layout alone'),
        '--kd-model-name': (config.distill.kd_model_name, 'the student may be part of a larger module then'),
        '--model-ema-force-cpu': (
            config.ema.model_ema_force_cpu,
            'the moving average is sharded as the model is, and takes that much less memory',
        ),
        '--on-bad-image skip or replace': (
            config.faults.on_bad_image != 'error',
            'where one process leaves a batch of validation out, the others would wait for it',
        ),
        '--clip-mode agc': (
            optimizer.clip_grad is not None and optimizer.clip_mode == 'agc',
            'it takes norms of whole weights; try norm or value',
        ),
    }
    for flag, (given, why) in refused.items():
        if given:
            raise DebiasError(f'{flag} does not go with --fsdp: {why}')
    if optimizer.opt.lower() not in OPTIMIZERS:
        raise DebiasError(
            f'--opt {optimizer.opt} does not go with --fsdp: it has to treat each weight on its own, as these do: '
            f'{", ".join(OPTIMIZERS)}'
        )


def shard(task: TrainingTask, machine: Machine) -> None:
    """Shard the model of a task, and its moving average where it has one, over all processes.

    To be called before the optimizer is made, by all processes. The weights are those of the first.

    Raises:
        DebiasError: one process, or a model that FSDP cannot shard.
    """
    if not machine.distributed:
        raise DebiasError('--fsdp shares a model out between processes, and this is one alone: start it with torchrun')
    _shard(task.get_trainable_module(), machine)
    average: Any = task.get_trainable_module(ema=True)
    if average is not None:
        _shard(average.module, machine)
        average.__class__ = _ShardedEma


class _ShardedEma(ModelEmaV3):
    """timm's moving average, of the parts that this process has: its kernels take no mixture with whole tensors."""

    def _foreach_lerp_(self, ema_values: list[Any], model_values: list[Any], weight: float) -> None:
        super()._foreach_lerp_([*map(own_part, ema_values)], [*map(own_part, model_values)], weight)


def own_part(tensor: Any) -> torch.Tensor:
    """Return the part of a distributed tensor that this process holds, any other tensor as it is."""
    part: torch.Tensor = tensor.to_local() if hasattr(tensor, 'to_local') else tensor
    return part


def _shard(model: Any, machine: Machine) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(machine.device.type, (machine.world_size,))
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, 0)
    try:
        for block in repeated_blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    except (ValueError, NotImplementedError, RuntimeError, AssertionError) as error:
        raise DebiasError(f'--fsdp: {type(model).__name__} cannot be sharded ({reason(error)[:300]})') from error
    model.register_load_state_dict_pre_hook(_share_out)
    model.no_sync = _no_sync(model)  # What timm's tasks call to add up gradients.


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the modules that are gathered and released one at a time, inner ones first: blocks and stages.

    A block is a module with children whose siblings in an `nn.Sequential` or `nn.ModuleList` are of its class. timm's
    models are built of them.
    """
    blocks: dict[nn.Module, None] = {}
    for container in model.modules():
        if not isinstance(container, (nn.Sequential, nn.ModuleList)):
            continue
        children = list(container)
        for child in children:
            alike = sum(type(other) is type(child) for other in children)
            if alike > 1 and any(True for _ in child.children()) and any(True for _ in child.parameters()):
                blocks[child] = None
    return list(blocks)[::-1]  # `modules` has outer ones first.


def whole(value: Any, keep: bool) -> Any:
    """Return a checkpoint's entry with whole tensors, on the CPU, in place of distributed ones; for all to call.

    Args:
        value: Tensors in dicts and lists; anything else stays as it is.
        keep: Whether this process needs them; None stands for each where it does not.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        tensor = value.full_tensor()
        return tensor.cpu() if keep else None
    if isinstance(value, dict):
        return {key: whole(item, keep) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item, keep) for item in value]
    return value


def shared_out(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state dict of an optimizer, of whole tensors, with those of sharded parameters shared out."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    numbers = [number for group in state['param_groups'] for number in group['params']]
    parts = {
        number: {
            name: _part(value, parameter) if torch.is_tensor(value) else value
            for name, value in state['state'][number].items()
        }
        for number, parameter in zip(numbers, parameters, strict=True)
        if number in state['state']
    }
    return {**state, 'state': parts}


def _share_out(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Share whole tensors out before a sharded model loads them."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if prefix + name in state:
            state[prefix + name] = _part(state[prefix + name], parameter)


def _part(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return a tensor of a parameter's shape as this process's part of it, any other as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor) or isinstance(tensor, DTensor) or tensor.shape != parameter.shape:
        return tensor
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)


def _no_sync(model: Any) -> Callable[[], Any]:
    @contextmanager
    def no_sync() -> Iterator[None]:
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)

    return no_sync
