"""Checkpoints of classifiers, from whatever training code: the weights alone, under the names of the plain model."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..aux_bn import split_aux_state
from ..errors import DebiasError
from ..weight_files import StateDict, check_finite, load_safetensors, load_torch_file

_WRAPPERS = ('module.', '_orig_mod.')
"""What DataParallel, DistributedDataParallel and torch.compile put before the name of every weight."""

_PLACES = (('state_dict', 'state_dict_ema'), ('model', 'model_ema'))
"""Keys of weights and of their moving average: timm's and the reference's, torchvision's."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds of a model."""

    path: Path
    state: StateDict
    """Weights of the plain model."""

    aux: StateDict
    """Auxiliary batch norm (`….aux_bn.…`); empty where there is none."""

    args: Mapping[str, Any]
    """Flags of the training run where the checkpoint has them, as timm's does."""

    metric: float | None
    """What timm ranks checkpoints by, where it is there."""

    is_ema: bool
    """Whether these are the moving average."""

    has_ema: bool
    """Whether the file holds a moving average."""


def read_checkpoint(path: Path, use_ema: bool = False) -> Checkpoint:
    """Return the weights in a file: safetensors, or what `torch.save` wrote, read without executing anything in it.

    Knows a raw state dict, `state_dict` (timm, the reference) and `model` (torchvision), the prefixes of DataParallel,
    DistributedDataParallel and torch.compile, and auxiliary batch norm in the state dict (the reference) or beside it
    (this project's `task_state`).

    Args:
        path: File to read.
        use_ema: Take the moving average.

    Raises:
        DebiasError: missing, damaged, with code in it, without weights, without the moving average, or with weights
            that are not finite.
    """
    content: object = load_safetensors(path) if path.suffix == '.safetensors' else _load(path)
    if not isinstance(content, dict):
        raise DebiasError(f'{path}: holds a {type(content).__name__}; expected a checkpoint or a state dict')
    plain_key, ema_key = next((keys for keys in _PLACES if isinstance(content.get(keys[0]), dict)), ('', ''))
    has_ema = content.get(ema_key) is not None
    if use_ema and not has_ema:
        raise DebiasError(f'{path}: holds no moving average of the weights; leave --use-ema out')
    weights = content[ema_key if use_ema else plain_key] if plain_key else content
    task_state = content.get('task_state_ema' if use_ema else 'task_state') if plain_key else None
    state, aux = split_aux_state(_unwrap(_tensors(path, weights)))
    if isinstance(task_state, dict) and isinstance(task_state.get('aux_bn'), dict):
        aux = _unwrap(_tensors(path, task_state['aux_bn']))
    if not state:
        raise DebiasError(f'{path}: holds auxiliary batch norm and no weights of a model')
    check_finite({**state, **aux}, path)
    args = content.get('args') if plain_key else None
    metric = content.get('metric') if plain_key else None
    return Checkpoint(
        path=path,
        state=state,
        aux=aux,
        args=vars(args) if isinstance(args, argparse.Namespace) else {},
        metric=float(metric) if isinstance(metric, (int, float)) else None,
        is_ema=use_ema,
        has_ema=has_ema,
    )


def _load(path: Path) -> object:
    return load_torch_file(path, allow=[argparse.Namespace])  # timm's checkpoints hold their flags so.


def _tensors(path: Path, weights: Any) -> StateDict:
    other = [key for key, value in weights.items() if not (isinstance(key, str) and isinstance(value, torch.Tensor))]
    if other or not weights:
        keys = ', '.join(f"'{key}'" for key in other[:5]) or 'nothing'
        raise DebiasError(
            f"{path}: no weights of a model: expected tensors, or a dict with 'state_dict' or 'model'; found {keys}"
        )
    return dict(weights)


def _unwrap(state: StateDict) -> StateDict:
    """Remove the prefixes that wrappers give to every key, in whatever order they were applied."""
    for prefix in _WRAPPERS * 2:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
