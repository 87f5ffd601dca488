"""Weights of stylizers: reading, checking, writing and downloading them, without executing anything in a file."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..errors import DebiasError
from ..files import atomic_path
from .base import Stylizer

AnyStylizer = TypeVar('AnyStylizer', bound=Stylizer)

StateDict = dict[str, torch.Tensor]

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
    _check_file(path)
    try:
        with safe_open(path, framework='pt') as file:
            found = (file.metadata() or {}).get('stylizer')
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
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
    _check_file(path)
    state = load_torch_file(path)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DebiasError(f'{path}: expected a state dict, names with tensors')
    return dict(state)


def load_torch_file(path: Path) -> object:
    """Return what `torch.save` wrote to `path`, on the CPU, tensors and plain Python values only.

    Raises:
        DebiasError: the file is missing, half-written, or not one of torch's.
    """
    _check_file(path)
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # On garbage, the restricted unpickler raises almost anything.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DebiasError(f'{path}: half-written, damaged, or not a file of torch.save ({reason})') from error


def load_state(module: nn.Module, state: StateDict, source: str | os.PathLike, ignore: Iterable[str] = ()) -> None:
    """Copy `state` into `module`; every key must be there, of the right shape, and no other but those in `ignore`.

    Raises:
        DebiasError: names `source` and the first key that is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    state = {key: value for key, value in state.items() if key not in set(ignore)}
    for key, value in own.items():
        if key not in state:
            raise DebiasError(f"{source}: '{key}' is missing; not weights of this network")
        if state[key].shape != value.shape:
            raise DebiasError(f"{source}: '{key}' is {list(state[key].shape)}; expected {list(value.shape)}")
    for key in state:
        if key not in own:
            raise DebiasError(f"{source}: '{key}' is unexpected; not weights of this network")
    module.load_state_dict(state)


def download(url: str, path: Path, check: Callable[[Path], object]) -> None:
    """Download `url` to `path` with a progress bar; `check` reads the file before it takes its name.

    Raises:
        DebiasError: the download failed; the message is the reason alone.
    """
    with atomic_path(path) as temporary:
        try:
            torch.hub.download_url_to_file(url, str(temporary), progress=True)
        except (OSError, ValueError) as error:
            raise DebiasError(f'{getattr(error, "reason", None) or error}') from error
        check(temporary)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DebiasError(f'{path}: no such file')
