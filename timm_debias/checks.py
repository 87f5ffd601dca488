"""Checks that every command makes before any work is done."""

from collections.abc import Sequence

import torch
from timm.models import is_model, list_models

from .errors import DebiasError, did_you_mean, told_as

INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')
"""Ways to resize an image that timm's transforms know by name."""

DATA_FLAGS = ('data', 'data_dir')
"""timm's two flags for the folder of images."""

_MAX_SEED = 2**32 - 1


def is_known_model(name: str) -> bool:
    """Return whether timm knows a model of this name, or would ask elsewhere for it."""
    return name.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')) or is_model(name.split('.')[0])


def check_model_name(name: str) -> None:
    """Raise `DebiasError` for a model that timm does not know, with near names."""
    if not is_known_model(name):
        hint = did_you_mean(name, list_models())
        raise DebiasError(f"unknown model '{name}'. {hint or 'timm.list_models() lists all names.'}")


def check_seed(seed: int) -> None:
    """Raise `DebiasError` for a seed that NumPy does not take."""
    if not 0 <= seed <= _MAX_SEED:
        raise DebiasError(f'--seed is {seed}; expected 0 to {_MAX_SEED}')


def check_one_folder(data: str | None, data_dir: str | None) -> None:
    """Raise `DebiasError` where timm's two ways to name the data set name two."""
    if data and data_dir and data != data_dir:
        raise DebiasError(f"two data sets are named, '{data}' and --data-dir '{data_dir}': give one of them")


def check_by_channel(flag: str, values: Sequence[float] | None, channels: int) -> None:
    """Raise `DebiasError` for a mean or standard deviation of another number of channels."""
    if values is not None and len(values) not in (1, channels):
        raise DebiasError(f'{flag} has {len(values)} values; expected 1, or {channels} for as many channels')


def check_preprocessing(
    crop_pct: float | None, mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> None:
    """Raise `DebiasError` for a `--crop-pct`, `--mean` or `--std` that no image can be prepared with."""
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise DebiasError(f'--crop-pct is {crop_pct:g}; expected a share of the image above 0, 1 at most')
    check_by_channel('--mean', mean, channels)
    check_by_channel('--std', std, channels)
    if std is not None and not all(0 < value < float('inf') for value in std):
        raise DebiasError(f'--std is {" ".join(f"{value:g}" for value in std)}; expected numbers above 0')


def check_device(device: str) -> None:
    """Raise `DebiasError` for a device that torch does not have, or not here."""
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise DebiasError(f"--device '{device}' is not a device that torch knows") from error
    if named.type == 'cuda' and not torch.cuda.is_available():
        raise DebiasError(f'--device {device}: torch finds no CUDA device here; give --device cpu to use the CPU')
    if named.type == 'cuda' and (named.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise DebiasError(f'--device {device}: the last CUDA device that torch finds here is cuda:{last}; give another')
    if named.type == 'mps' and not torch.backends.mps.is_available():
        raise DebiasError(f'--device {device}: torch finds no MPS device here; give --device cpu to use the CPU')
    if named.type not in ('cpu', 'cuda', 'mps'):
        message = f'--device {device}: torch cannot use it here, give --device cpu to use the CPU'
        with told_as(message, AssertionError, ImportError, RuntimeError):
            torch.empty(0, device=named)
