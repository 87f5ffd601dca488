"""Files of weights: reading, checking and downloading them, without executing anything in a file."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from .errors import DebiasError
from .files import atomic_path

StateDict = dict[str, torch.Tensor]


def load_torch_file(path: Path, allow: Iterable[type] = ()) -> object:
    """Return what `torch.save` wrote to `path`, on the CPU, tensors and plain Python values only.

    Args:
        path: File to read.
        allow: Further classes that hold data and no code.

    Raises:
        DebiasError: the file is missing, half-written, not one of torch's, or holds objects of other classes, which
            are named and not made.
    """
    check_file(path)
    try:
        with torch.serialization.safe_globals(list(allow)):
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # On garbage, the restricted unpickler raises almost anything.
        refused = re.search(r'GLOBAL (\S+) (?:was not an allowed|whose module)', str(error))
        if refused is not None:
            raise DebiasError(
                f'{path}: holds more than tensors: reading it would execute {refused[1]}. Nothing of it was executed; '
                'where you trust it, save its state dict alone in a file'
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DebiasError(f'{path}: half-written, damaged, or not a file of torch.save ({reason})') from error


def load_safetensors(path: Path, sha256: str | None = None) -> StateDict:
    """Return the tensors of a safetensors file.

    Args:
        path: File to read.
        sha256: Hash that its bytes must have, in hex; unchecked where None.

    Raises:
        DebiasError: the file is missing, damaged, or has another hash.
    """
    check_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DebiasError(f'{path}: {error.strerror or error}') from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise DebiasError(f'{path}: SHA-256 is {found} and should be {sha256}; damaged or exchanged')
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DebiasError(f'{path}: damaged, or not a safetensors file ({error})') from error


def difference(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str | None:
    """Return in words the first key of `state` that is missing, unexpected or of another shape; None where none is."""
    for key, value in expected.items():
        if key not in state:
            return f"'{key}' is missing"
        if state[key].shape != value.shape:
            return f"'{key}' is {list(state[key].shape)}; expected {list(value.shape)}"
    for key in state:
        if key not in expected:
            return f"'{key}' is unexpected"
    return None


def load_state(module: nn.Module, state: StateDict, source: str | PathLike, ignore: Iterable[str] = ()) -> None:
    """Copy `state` into `module`; every key must be there, of the right shape, and no other but those in `ignore`.

    Raises:
        DebiasError: names `source` and the first key that is missing, unexpected or of another shape.
    """
    state = {key: value for key, value in state.items() if key not in set(ignore)}
    reason = difference(state, module.state_dict())
    if reason is not None:
        raise DebiasError(f'{source}: {reason}; not weights of this network')
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


def check_file(path: Path) -> None:
    """Raise `DebiasError` where there is no file."""
    if not path.is_file():
        raise DebiasError(f'{path}: no such file')
