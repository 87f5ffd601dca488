"""The timm network that weights belong to, and the weights under its names."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from timm.models import create_model, get_pretrained_cfg
from torch import nn

from ..checks import check_model_name
from ..errors import DebiasError, reason
from ..weight_files import StateDict, difference
from .checkpoints import Checkpoint

_BATCHES = '.num_batches_tracked'


def create_network(arch: str, num_classes: int | None, model_kwargs: Mapping[str, Any]) -> nn.Module:
    """Return timm's network of a name, with random weights.

    Raises:
        DebiasError: an unknown name, or arguments that the network does not take.
    """
    check_model_name(arch)
    try:
        return create_model(arch, num_classes=num_classes, **model_kwargs)
    except Exception as error:  # Model code raises almost anything; all of it is about these arguments.
        raise DebiasError(f'{arch}: {reason(error)[:300]}') from error


def count_classes(arch: str, state: StateDict) -> int | None:
    """Return the number of classes by the shape of the classifier's weight, None where it has another name."""
    config = get_pretrained_cfg(arch)
    classifiers = config.classifier if config is not None else None
    first = classifiers if isinstance(classifiers, str) or not classifiers else classifiers[0]
    weight = state.get(f'{first}.weight')
    return None if weight is None else len(weight)


def fit(checkpoint: Checkpoint, network: nn.Module, arch: str) -> StateDict:
    """Return the weights of a checkpoint under the names of `network`, all of them and no other.

    Where names differ, timm's own filter for foreign checkpoints of the architecture is tried; it may rename and
    reshape, not change values.

    Raises:
        DebiasError: names the first key that is missing, unexpected or of another shape.
    """
    expected = network.state_dict()
    state = with_numbers_of_batches(checkpoint.state, expected)
    reason = difference(state, expected)
    if reason is None:
        return state
    renamed = _renamed_by_timm(checkpoint.state, arch, network)
    if renamed is not None and difference(renamed, expected) is None:
        return renamed
    raise DebiasError(f'{checkpoint.path}: {reason}; not weights of {arch} with {network.num_classes} classes')


def with_numbers_of_batches(state: StateDict, expected: Mapping[str, torch.Tensor]) -> StateDict:
    """Return `state` with batch norm's numbers of batches, 0, where it has none at all.

    PyTorch before 0.4.1 kept no such numbers, torchvision's oldest checkpoints among what it wrote; evaluation does not
    use them.
    """
    if any(key.endswith(_BATCHES) for key in state):
        return state
    return {**state, **{key: torch.zeros_like(value) for key, value in expected.items() if key.endswith(_BATCHES)}}


def _renamed_by_timm(state: StateDict, arch: str, network: Any) -> StateDict | None:
    """Return what timm's filter makes of foreign names; None where it fails or changes more than names and shapes."""
    overlay = dict(state_dict={key: value.clone() for key, value in state.items()}, num_classes=network.num_classes)
    arguments = {**network._model_args, 'num_classes': network.num_classes}
    try:
        model = create_model(arch, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    except Exception:  # A filter that was made for other files raises anything.
        return None
    renamed = model.state_dict()
    return renamed if _contents(state) == _contents(renamed) else None


def _contents(state: StateDict) -> Counter[str]:
    tensors = (value.detach().contiguous().reshape(-1) for key, value in state.items() if not key.endswith(_BATCHES))
    return Counter(hashlib.sha256(tensor.view(torch.uint8).numpy().tobytes()).hexdigest() for tensor in tensors)
