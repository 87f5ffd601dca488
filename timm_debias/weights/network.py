"""The timm network that weights belong to, and the weights under its names."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from timm.models import create_model, get_pretrained_cfg, load_checkpoint
from torch import nn

from ..checks import check_model_name
from ..errors import DebiasError, reason
from ..weight_files import StateDict, check_finite, difference
from .checkpoints import Checkpoint, read_checkpoint

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
    return _count_rows(_names(config.classifier if config is not None else None), state)


def _names(classifier: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the names of the layers that timm's configuration of an architecture calls its classifier."""
    return (classifier,) if isinstance(classifier, str) else tuple(classifier or ())


def _count_rows(classifier: tuple[str, ...], state: StateDict) -> int | None:
    weight = state.get(f'{classifier[0]}.weight') if classifier else None
    return None if weight is None else len(weight)


def load_as_timm(network: Any, path: str, flag: str, arch: str, use_ema: bool, otherwise: str = '') -> None:
    """Load a checkpoint that `check_weights` has passed, as `timm.create_model(checkpoint_path=…)` does.

    Args:
        network: Takes the weights.
        path: The checkpoint.
        flag: What names it, for errors.
        arch: What names the network, for errors.
        use_ema: Take the moving average where there is one.
        otherwise: What else to do, beside giving its number of classes, with a checkpoint of other classes.

    Raises:
        DebiasError: not weights of the network; says what differs, and where that is the classes, how many there are.
            Or weights that are not finite.
    """
    try:
        load_checkpoint(network, path, use_ema)
    except Exception as error:  # timm's readers raise almost anything on files that are not theirs.
        words = _misfit(Path(path), network, arch, otherwise)
        words = words or f'not weights of {arch} ({shorten(str(error), 300, placeholder=" …")})'
        raise DebiasError(f'{flag} {path}: {words}') from error
    check_finite(network.state_dict(), f'{flag} {path}')


def _misfit(path: Path, network: Any, arch: str, otherwise: str) -> str | None:
    """Return why a checkpoint does not fit; None where its weights do, or cannot be looked at."""
    try:
        checkpoint = read_checkpoint(path)
    except DebiasError:
        return None
    state = checkpoint.state
    classifier = _names(network.pretrained_cfg.get('classifier'))
    classes, expected = _count_rows(classifier, state), network.state_dict()

    def rest(tensors: StateDict) -> StateDict:
        return {key: value for key, value in tensors.items() if key.rpartition('.')[0] not in classifier}

    if classes not in (None, network.num_classes) and difference(rest(state), rest(expected)) is None:
        return (
            f'the checkpoint has {classes} classes and the model {network.num_classes}: give --num-classes {classes}'
            f'{otherwise}'
        )
    reason = difference(state, expected)
    return f'not weights of {arch}{_trained_as(checkpoint, arch)}: {reason}' if reason is not None else None


def _trained_as(checkpoint: Checkpoint, arch: str) -> str:
    """Return words on the architecture that was trained, where the checkpoint says that it was another."""
    trained = checkpoint.args.get('model')
    if not isinstance(trained, str) or _architecture(trained) == _architecture(arch):
        return ''
    return f', but of {shorten(trained, 100)}'


def _architecture(name: str) -> str:
    """Return a model's name without where it is from and what it was trained on."""
    return name.rpartition('/')[2].partition('.')[0]


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
    raise DebiasError(
        f'{checkpoint.path}: {reason}; not weights of {arch} with '
        f'{network.num_classes} classes{_trained_as(checkpoint, arch)}'
    )


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
