"""The registry of stylizers: a file with its decorator and an import in `__init__.py` make one known everywhere."""

import os
from collections.abc import Callable, Sequence

from ..errors import DebiasError, did_you_mean
from .base import Stylizer

StylizerFactory = Callable[[str | os.PathLike | None], Stylizer]

_factories: dict[str, StylizerFactory] = {}


def register_stylizer(factory: StylizerFactory) -> StylizerFactory:
    """Register `factory(weights) -> Stylizer` under its own name; the docstring's first line describes it in `--help`.

    Raises:
        DebiasError: the name is taken.
    """
    name = factory.__name__
    if name in _factories:
        raise DebiasError(f"a stylizer named '{name}' is registered already; choose another name")
    _factories[name] = factory
    return factory


def list_stylizers() -> list[str]:
    """Return the names of all registered stylizers, sorted."""
    return sorted(_factories)


def describe_stylizers() -> dict[str, str]:
    """Return a one-line description for each registered stylizer."""
    return {name: (_factories[name].__doc__ or '').strip().splitlines()[0] for name in list_stylizers()}


def create_stylizer(name: str, weights: str | os.PathLike | None = None) -> Stylizer:
    """Create a registered stylizer, ready for use: in eval mode, without gradients for its parameters.

    Args:
        name: One of `list_stylizers()`.
        weights: Path of its weights; each stylizer says what it takes and where it looks by default.

    Raises:
        DebiasError: unknown name, or weights that are missing or belong to another architecture.
    """
    if name not in _factories:
        raise DebiasError(f"unknown stylizer '{name}'. {did_you_mean(name, _factories)}")
    return _factories[name](weights).eval().requires_grad_(False)


def create_stylizers(names: Sequence[str], weights: Sequence[str], weights_flag: str) -> dict[str, Stylizer]:
    """Create the stylizers that `--stylizers` names.

    Args:
        names: Registered names.
        weights: NAME=PATH for those whose weights are not where they are by default, from `weights_flag`.
        weights_flag: Name of that flag, for messages.

    Raises:
        DebiasError: as `create_stylizer`, and weights of a stylizer that is not named.
    """
    paths = {}
    for item in weights:
        name, separator, path = item.partition('=')
        if not separator:
            raise DebiasError(f"{weights_flag} '{item}': expected NAME=PATH")
        if name not in names:
            raise DebiasError(f"{weights_flag} '{item}': --stylizers does not name '{name}'")
        paths[name] = path
    for name in names:
        if name not in _factories:
            raise DebiasError(f"--stylizers: unknown stylizer '{name}'. {did_you_mean(name, _factories)}")
    return {name: create_stylizer(name, paths.get(name)) for name in names}
