"""What a target of the campaign is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: What it reads.
        inputs: What it is given.
        read: Reads an input in an empty folder, raises `DebiasError` where it refuses it, and `AssertionError` where
            it has read something else than another reader.
        examples: Number of inputs.
    """

    name: str
    inputs: st.SearchStrategy
    read: Callable[[Any, Path], None]
    examples: int


TARGETS: list[Target] = []


def target(name: str, inputs: st.SearchStrategy, examples: int) -> Callable:
    """Make a function `read(input, folder)` a target."""

    def add(read: Callable[[Any, Path], None]) -> Callable[[Any, Path], None]:
        TARGETS.append(Target(name, inputs, read, examples))
        return read

    return add
