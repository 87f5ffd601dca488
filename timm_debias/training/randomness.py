"""Random numbers as a function of where they are drawn, and the state of every generator that training draws from."""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def derive_seed(*place: int | str) -> int:
    """Return a seed in [0, 2⁶³) for a place such as (run's seed, epoch, number of the sample).

    A hash, so that neighbouring places and neighbouring runs get unrelated seeds.
    """
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


def seed_host(seed: int) -> None:
    """Seed the generators that transforms draw from: Python's, numpy's and torch's of the CPU."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too.


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of Python's, numpy's and torch's generators, the last of the CPU and of `device`.

    Tensors and plain values, which `torch.load(weights_only=True)` reads.
    """
    _, keys, *numpy_rest = np.random.get_state()
    state = {
        'python': random.getstate(),
        'numpy': [torch.from_numpy(np.asarray(keys, dtype=np.int64)), *numpy_rest],
        'torch': torch.get_rng_state(),
    }
    if device.type != 'cpu':
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set the generators to what `random_state` returned; that of a device of another kind stays as it is."""
    random.setstate(state['python'])
    keys, *numpy_rest = state['numpy']
    np.random.set_state(('MT19937', keys.numpy().astype(np.uint32), *numpy_rest))
    torch.set_rng_state(state['torch'])
    if device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type])


def random_states(task: Any, device: torch.device) -> dict[str, Any]:
    """Return the states of all generators that a task's forward pass draws from, as `random_state` does."""
    own = {name: generator.get_state() for name, generator in _generators(task)}
    return {'random': random_state(device), 'generators': own}


def set_random_states(task: Any, states: dict[str, Any], device: torch.device) -> None:
    """Set the generators to what `random_states` returned."""
    set_random_state(states['random'], device)
    for name, generator in _generators(task):
        if name in states['generators']:
            generator.set_state(states['generators'][name])


def _generators(task: Any) -> Iterator[tuple[str, torch.Generator]]:
    """Yield the generators that a task and its parts own: of partners, and of the moving average's rounding."""
    owners = {'task': task, 'mix': getattr(task, 'mix', None), 'ema': task.get_trainable_module(ema=True)}
    for owner_name, owner in owners.items():
        for name, value in vars(owner).items() if owner is not None else ():
            if isinstance(value, torch.Generator):
                yield f'{owner_name}.{name}', value


@contextlib.contextmanager
def kept_random_state(device: torch.device | None = None) -> Iterator[None]:
    """Leave all generators as they were before the `with` block; those of the CPU alone where `device` is None."""
    device = device if device is not None else torch.device('cpu')
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)
