"""Weights in few bytes: convolution and linear weights as small integers with a scale for each output channel.

A model is measured with what `unpack` gives, so nothing is lost between a card's numbers and the file: rounding to the
grid is the last step of making it, not a step of loading.
"""

import io
from pathlib import Path

import numpy as np
import torch

from ..errors import DebiasError
from ..files import atomic_path
from ..weight_files import StateDict, check_file

_SCALE = '.scale'
_CODES = '.codes'


def pack(state: StateDict, bits: int) -> dict[str, np.ndarray]:
    """Return arrays that hold `state`, weights of two or more dimensions rounded.

    Args:
        state: Weights; a tensor [C, …] of two or more dimensions becomes integers in ±(2^(bits−1) − 1) times a
            float32 scale for each of its C channels, everything else is kept as it is.
        bits: Bits of an integer, 2 to 8.
    """
    largest = 2 ** (bits - 1) - 1
    arrays = {}
    for key, value in state.items():
        if value.ndim < 2:
            arrays[key] = value.numpy()
            continue
        scale = value.float().flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / largest
        codes = (value.float() / _like(scale, value)).round().clamp(-largest, largest)
        arrays[key + _CODES] = codes.to(torch.int8).numpy()
        arrays[key + _SCALE] = scale.numpy()
    return arrays


def unpack(arrays: dict[str, np.ndarray]) -> StateDict:
    """Return the weights in arrays that `pack` gave: integer times scale, in float32."""
    state = {}
    for key, array in arrays.items():
        if key.endswith(_CODES):
            name = key.removesuffix(_CODES)
            codes = torch.from_numpy(array).float()
            state[name] = codes * _like(torch.from_numpy(arrays[name + _SCALE]), codes)
        elif not key.endswith(_SCALE):
            state[key] = torch.from_numpy(array)
    return state


def save_packed(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write packed arrays to an .npz file, atomically; the same arrays give the same bytes."""
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)


def load_packed(path: Path) -> StateDict:
    """Return the weights in a file that `save_packed` wrote.

    Raises:
        DebiasError: the file is missing or damaged.
    """
    check_file(path)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return unpack(dict(file))
    except Exception as error:  # On garbage, the readers of zip and npy raise almost anything.
        raise DebiasError(f'{path}: damaged, or not packed weights ({error})') from error


def _like(scale: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return scale.reshape(-1, *[1] * (value.ndim - 1))
