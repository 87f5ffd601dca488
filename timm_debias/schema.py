"""What values read from a file must look like, in words that fit an error."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .errors import DebiasError

Check = Callable[[Any, str], None]
"""Raises `ValueError` for a value that is not as it should be; the text says where it is."""

LARGEST = 1e12
"""No figure of this project is larger, and drawings and sums of smaller ones are finite."""


def checked(value: Any, check: Check, path: Path, expected: str) -> Any:
    """Return what a file says, if it is as it should be.

    Args:
        value: What it says.
        check: What it must look like.
        path: The file.
        expected: What it should be, for errors.

    Raises:
        DebiasError: it does not look like that.
    """
    try:
        check(value, str(path))
    except ValueError as error:
        raise DebiasError(f'{error}; not {expected}') from error
    return value


def text(value: Any, where: str) -> None:
    """Expect a text."""
    if not isinstance(value, str):
        raise ValueError(f'{where}: expected a text, found {_shown(value)}')


def truth(value: Any, where: str) -> None:
    """Expect true or false."""
    if not isinstance(value, bool):
        raise ValueError(f'{where}: expected true or false, found {_shown(value)}')


def number(value: Any, where: str) -> None:
    """Expect a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise ValueError(f'{where}: expected a number, found {_shown(value)}')


def count(value: Any, where: str) -> None:
    """Expect a whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
        raise ValueError(f'{where}: expected a whole number from 0, found {_shown(value)}')


def mapping(value: Any, where: str) -> None:
    """Expect a mapping of anything."""
    if not isinstance(value, dict):
        raise ValueError(f'{where}: expected names with values, found {_shown(value)}')


def optional(check: Check) -> Check:
    """Return a check that also accepts null."""

    def checked(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return checked


def mapping_of(check: Check) -> Check:
    """Return the check of a mapping whose values all pass `check`."""

    def checked(value: Any, where: str) -> None:
        mapping(value, where)
        for name, item in value.items():
            check(item, f'{where}: {name}')

    return checked


def list_of(check: Check, length: int | None = None) -> Check:
    """Return the check of a list whose items all pass `check`, of a length where one is given."""

    def checked(value: Any, where: str) -> None:
        if not isinstance(value, list) or length not in (None, len(value)):
            what = 'a list' if length is None else f'a list of {length}'
            raise ValueError(f'{where}: expected {what}, found {_shown(value)}')
        for place, item in enumerate(value, start=1):
            check(item, f'{where}: {place}')

    return checked


def record(required: Mapping[str, Check], known: Mapping[str, Check] | None = None) -> Check:
    """Return the check of a mapping with the keys `required`; those of `known` are checked where they are there."""

    def checked(value: Any, where: str) -> None:
        mapping(value, where)
        missing = [name for name in required if name not in value]
        if missing:
            raise ValueError(f"{where}: '{missing[0]}' is missing")
        for name, check in {**required, **(known or {})}.items():
            if name in value:
                check(value[name], f'{where}: {name}')

    return checked


def both(*checks: Check) -> Check:
    """Return a check that makes several, one after the other."""

    def checked(value: Any, where: str) -> None:
        for check in checks:
            check(value, where)

    return checked


def _shown(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 60 else f'{words[:57]}…'
