"""Weights of stylizers: reading, checking and writing them, without executing anything in a file."""

import os
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..errors import DebiasError
from ..files import atomic_path
from ..weight_files import StateDict, check_file, load_state, load_torch_file
from .base import Stylizer

AnyStylizer = TypeVar('AnyStylizer', bound=Stylizer)

FLAGS = '--debias-stylizer-weights (train), --stylizer-weights (stylize) or weights= (Python)'
"""Where a user names weights."""


def save_stylizer(stylizer: Stylizer, path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights of `stylizer` to a safetensors file, atomically.

    Args:
        stylizer: One whose class names its `architecture`; the name is written to the file's metadata.
        path: File to write.
        dtype: Type to store the weights in; loading gives float32 again.

    Raises:
        DebiasError: the class does not name its architecture.
    """
    if not stylizer.architecture:
        raise DebiasError(f'{type(stylizer).__name__} does not set `architecture`; its file could not be told apart')
    state = {key: value.detach().to('cpu', dtype).contiguous() for key, value in stylizer.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={'stylizer': stylizer.architecture})


def load_stylizer(stylizer: AnyStylizer, path: str | os.PathLike) -> AnyStylizer:
    """Load a file that `save_stylizer` wrote into `stylizer` and return it.

    Raises:
        DebiasError: the file is missing, damaged, or holds the weights of another architecture.
    """
    path = Path(path)
    if path.is_dir():
        path = path / f'{stylizer.architecture}.safetensors'
    check_file(path)
    try:
        with safe_open(path, framework='pt') as file:
            found = (file.metadata() or {}).get('stylizer')
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # On garbage, the reader raises almost anything.
        raise DebiasError(f'{path}: damaged, or not a safetensors file ({error})') from error
    if found != stylizer.architecture:
        what = f"weights of '{found}'" if found else 'weights that name no stylizer in their metadata'
        raise DebiasError(f"{path}: {what}; this stylizer is '{stylizer.architecture}'")
    load_state(stylizer, state, path)
    return stylizer


def read_checkpoint(path: str | os.PathLike) -> StateDict:
    """Return the state dict in a file of `torch.save`, read without running code of the file.

    Raises:
        DebiasError: the file is missing, damaged, or no state dict.
    """
    path = Path(path)
    state = load_torch_file(path)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DebiasError(f'{path}: expected a state dict, names with tensors')
    return dict(state)
