"""Files of weights: reading and checking them, without executing anything in a file."""

import argparse
import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path

import torch
from safetensors.torch import load
from torch import nn

from .errors import DebiasError
from .untrusted import check_limits

StateDict = dict[str, torch.Tensor]


def load_torch_file(path: Path, allow: Iterable[type] = ()) -> object:
    """Return what `torch.save` wrote to `path`, on the CPU, tensors and plain Python values only.

    Args:
        path: File to read.
        allow: Further classes that hold data and no code.

    Raises:
        DebiasError: the file is missing, half-written, not one of torch's, built to fill the memory, or holds objects
            of other classes, which are named and not made.
    """
    check_file(path)
    try:
        check_archive(path)
        with torch.serialization.safe_globals(list(allow)):
            content = torch.load(path, map_location='cpu', weights_only=True)
        check_content(content, path.stat().st_size)
        return content
    except Exception as error:  # On garbage, the restricted unpickler raises almost anything.
        refused = re.search(r'GLOBAL (\S+) (?:was not an allowed|whose module)', str(error))
        if refused is not None:
            raise DebiasError(
                f'{path}: holds more than tensors: reading it would execute {refused[1]}. Nothing of it was executed; '
                'where you trust it, save its state dict alone in a file'
            ) from error
        # What torch says next is how to execute the file.
        words = str(error).strip().partition(' Re-running')[0]
        # On garbage it may be the number of a byte.
        said = f' ({words.splitlines()[0]})' if words and not words.isdigit() else ''
        raise DebiasError(f'{path}: half-written, damaged, or not a file of torch.save{said}') from error


def check_archive(path: Path, checksums: bool = True) -> None:
    """Check a file of torch.save as the archive that it is; torch.load does not.

    Args:
        path: The file; those of before torch 1.6 are no archives and pass.
        checksums: Read all of it, and compare with the checksums in it.

    Raises:
        ValueError: it is damaged, or packed: read, it could be any number of times as large.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError('its parts are compressed, which those of torch.save are not')
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError('its parts overlap')
        damaged = [entry.filename for entry in entries if checksums and not _is_intact(archive, entry)]
    # torch.serialization.set_crc32_options(False) writes other numbers in place of all checksums.
    if damaged and len(damaged) < len(entries):
        raise ValueError(f'the checksum of {damaged[0]} differs')


def _is_intact(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as file:
            while file.read(1 << 20):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def check_content(content: object, size: int) -> None:
    """Raise `ValueError` for what cannot be gone through, or has tensors that are larger than their file.

    Args:
        content: What was read: tensors and plain values.
        size: Of the file, in bytes.
    """

    def check(value: object) -> None:
        if not isinstance(value, torch.Tensor):
            return
        if value.layout != torch.strided or value.device.type == 'meta':
            raise ValueError(f'a tensor of layout {value.layout} on device {value.device}')
        if value.numel() * value.element_size() > max(size, 1024):
            raise ValueError(f'a tensor of {list(value.shape)}, more than the file holds')

    check_limits(content, finite=False, texts=False, check=check)


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
    except Exception as error:  # On garbage, the reader raises almost anything.
        raise DebiasError(f'{path}: damaged, or not a safetensors file ({error})') from error


def check_weights(path: Path, flag: str) -> None:
    """Check a file of weights before timm reads it.

    Args:
        path: The file.
        flag: What names it, for errors.

    Raises:
        DebiasError: it is damaged, or holds more than tensors.
    """
    try:
        if path.suffix == '.safetensors':
            load_safetensors(path)
        elif path.suffix not in ('.npz', '.npy'):  # Those of JAX, which timm reads without pickles.
            load_torch_file(path, allow=[argparse.Namespace])  # timm's checkpoints hold their flags so.
    except DebiasError as error:
        raise DebiasError(f'{flag} {error}') from error


def difference(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str | None:
    """Return in words the first key that is missing, unexpected, or of another shape or kind; None where none is."""
    for key, value in expected.items():
        if key not in state:
            return f"'{key}' is missing"
        if state[key].shape != value.shape:
            return f"'{key}' is {list(state[key].shape)}; expected {list(value.shape)}"
        if state[key].is_floating_point() != value.is_floating_point():
            return f"'{key}' is of {state[key].dtype}; expected {value.dtype}"
    for key in state:
        if key not in expected:
            return f"'{key}' is unexpected"
    return None


def load_state(module: nn.Module, state: StateDict, source: str | PathLike, ignore: Iterable[str] = ()) -> None:
    """Copy `state` into `module`; every key must be there, of the right shape, and no other but those in `ignore`.

    Raises:
        DebiasError: names `source` and the first key that is missing, unexpected, of another shape, or not finite.
    """
    state = {key: value for key, value in state.items() if key not in set(ignore)}
    reason = difference(state, module.state_dict())
    if reason is not None:
        raise DebiasError(f'{source}: {reason}; not weights of this network')
    check_finite(state, source)
    module.load_state_dict(state)


def check_finite(state: StateDict, source: str | PathLike) -> None:
    """Raise `DebiasError` that names the first of the weights with NaN or infinite values.

    A tensor without dimensions may be infinite: timm's gemma4_vit holds bounds that bound nothing so.
    """
    for key, value in state.items():
        if not value.is_floating_point():
            continue
        bad = value.isnan() if value.dim() == 0 else ~value.isfinite()
        if bad.any():
            raise DebiasError(f"{source}: '{key}' holds NaN or infinite values; the run has diverged")


def check_file(path: Path) -> None:
    """Raise `DebiasError` where there is no file."""
    if not path.is_file():
        raise DebiasError(f'{path}: no such file')
