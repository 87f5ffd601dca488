"""Numbers that flags can be meant to have."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .errors import DebiasError
from .flags import name_of


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a number is to be, and the words for it."""

    words: str
    holds: Callable[[float], bool]


def at_least(least: int) -> Bounds:
    """Return the bounds of numbers from `least` on."""
    return Bounds(f'at least {least}', lambda value: value >= least)


COUNT, NOT_NEGATIVE = at_least(1), at_least(0)
POSITIVE = Bounds('more than 0', lambda value: value > 0)
SHARE = Bounds('a number in [0, 1]', lambda value: 0 <= value <= 1)
BELOW_ONE = Bounds('at least 0 and less than 1', lambda value: 0 <= value < 1)
IN_255 = Bounds('0 to 255, in units of 1/255', lambda value: 0 <= value <= 255)


def check_bounds(concerns: Iterable[Any], fields: Mapping[Bounds, Sequence[str]]) -> None:
    """Raise `DebiasError` for the first number that lies outside of what its flag can mean.

    Args:
        concerns: Dataclasses whose fields `flag` declared.
        fields: By bounds, names of fields that hold a number, a list of numbers, or None.
    """
    by_name = {name: bounds for bounds, names in fields.items() for name in names}
    for concern in concerns:
        for field in dataclasses.fields(concern):
            bounds, value = by_name.get(field.name), getattr(concern, field.name)
            if bounds is None or value is None:
                continue
            for number in value if isinstance(value, list) else [value]:
                if not bounds.holds(number):
                    raise DebiasError(f'{name_of(field)} is {number:g}; expected {bounds.words}')
