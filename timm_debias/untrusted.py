"""Texts that others may have written: read within limits, and nothing in them executed.

JSON and YAML leave open what this closes: a key that is given twice, NaN and Infinity, texts that are no Unicode or
would steer a terminal, nesting that exhausts the stack, and YAML's aliases, by which a few lines stand for billions.
"""

import json
import math
from argparse import Namespace
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import yaml

from .errors import DebiasError, reason

MAX_DEPTH = 100
"""Lists and mappings within each other."""

MAX_VALUES = 1_000_000
"""Values, those behind aliases counted each time: ten times those of the ReaL labels of ImageNet."""

MAX_BYTES = 1 << 30

_ALLOWED_CONTROLS = '\t\n\r'


def parse_json(text: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: no JSON, or one that goes beyond the limits above; the message says why.
    """
    try:
        value = json.loads(text, object_pairs_hook=_mapping, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError(f'more than {MAX_DEPTH} lists and mappings within each other') from error
    check_limits(value)
    return value


def parse_yaml(text: str) -> Any:
    """Return what a YAML text says in plain values; tags that would make other objects are refused.

    Raises:
        ValueError: no YAML, or one that goes beyond the limits above; the message says why.
    """
    try:
        value = yaml.load(text, _Loader)  # A SafeLoader.
    except RecursionError as error:
        raise ValueError(f'more than {MAX_DEPTH} lists and mappings within each other') from error
    except Exception as error:  # Values such as 2001-99-99 make the library's constructors raise almost anything.
        raise ValueError(reason(error)) from error
    check_limits(value, finite=False)
    return value


def read_text(path: Path) -> str:
    """Return a text of UTF-8.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no UTF-8, or larger than any file of this project.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f'larger than {MAX_BYTES >> 20} MiB')
    return path.read_text(encoding='utf-8')


def read_json(path: Path, expected: str) -> Any:
    """Return what a JSON file says.

    Args:
        path: The file.
        expected: What it should be, for errors.

    Raises:
        DebiasError: a file that cannot be read or holds no JSON.
    """
    try:
        return parse_json(read_text(path))
    except OSError as error:
        raise DebiasError(f'{path}: not {expected} ({error.strerror or error})') from error
    except ValueError as error:
        raise DebiasError(f'{path}: damaged, or not {expected} ({error})') from error


def check_limits(
    value: Any, finite: bool = True, texts: bool = True, check: Callable[[Any], None] | None = None
) -> None:
    """Raise `ValueError` for plain values that cannot be gone through, printed or computed with.

    Args:
        value: Mappings, lists and namespaces of anything; other objects count as one value.
        finite: Refuse NaN and infinite numbers.
        texts: Refuse texts that are no Unicode or hold control characters.
        check: Looks at every value too.
    """
    left = [(value, 0)]
    count = 0
    while left:
        item, depth = left.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise ValueError(f'more than {MAX_DEPTH} lists and mappings within each other')
        if count > MAX_VALUES:
            raise ValueError(f'more than {MAX_VALUES:,} values')
        if check is not None:
            check(item)
        if isinstance(item, str):
            if texts:
                _check_text(item)
        elif isinstance(item, float) and finite and not math.isfinite(item):
            raise ValueError(f'the number {item}')
        elif isinstance(item, dict):
            left += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, (list, tuple, set)):
            left += [(part, depth + 1) for part in item]
        elif isinstance(item, Namespace):
            left.append((vars(item), depth + 1))


def _check_text(text: str) -> None:
    if text.isascii() and text.isprintable():
        return
    for character in text:
        number = ord(character)
        if 0xD800 <= number < 0xE000:
            raise ValueError('a text that is no Unicode')
        if (number < 32 and character not in _ALLOWED_CONTROLS) or 127 <= number < 160:
            raise ValueError(f'a text with the control character {character!r}')


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in names if names.count(name) > 1)}' is given twice")
    return mapping


def _refuse_constant(name: str) -> float:
    raise ValueError(f'the number {name}')


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses a key that is given twice, of which the others would be dropped."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != 'tag:yaml.org,2002:merge':
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)
