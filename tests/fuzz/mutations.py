"""Inputs: bytes that are damaged, values where others are expected, and objects that would execute code."""

import copy
import os
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

TEXTS = (
    '', 'x' * 3000, '<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', '../../../x', '/etc/hostname',
    'a/../../b', '=cmd|1!A1', '\x1b[2J', '\u202e', 'nan', '${HOME}', 'a|b', '`x`', '[x](javascript:alert(1))', '\ud800',
)  # fmt: skip
NASTY = (None, True, -1, 0, 1e308, 2**70, -0.0, [], {}, [[]], [None], {'a': None}, *TEXTS)
"""What programs stumble over."""


def nasty() -> st.SearchStrategy:
    """One of `NASTY`, as a copy that may be changed."""
    return st.sampled_from(NASTY).map(copy.deepcopy)


def values() -> st.SearchStrategy:
    """JSON values of any kind, and those of `NASTY`."""
    leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), nasty())
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )


def changed(sample: Any) -> st.SearchStrategy:
    """`sample` with one to three places changed: another value there, nothing, or another name."""

    @st.composite
    def change(draw: Any) -> Any:
        value = copy.deepcopy(sample)
        for _ in range(draw(st.integers(1, 3))):
            value = _change_once(draw, value)
        return value

    return change()


def _change_once(draw: Any, value: Any) -> Any:
    node, keys = value, []
    while isinstance(node, (dict, list)) and node and (not keys or draw(st.integers(0, 3))):
        keys.append(draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))))
        node = node[keys[-1]]
    if not keys:
        return draw(values())
    place = value
    for key in keys[:-1]:
        place = place[key]
    what = draw(st.sampled_from(['value', 'value', 'value', 'nothing', 'name']))
    if what == 'value':
        place[keys[-1]] = draw(nasty() | values())
    elif what == 'nothing':
        del place[keys[-1]]
    elif isinstance(place, dict):
        place[draw(st.text(max_size=8) | st.sampled_from([item for item in NASTY if isinstance(item, str)]))] = (
            place.pop(keys[-1])
        )
    return value


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` cut off, with other bytes in some places, with bytes more or less, or none of it."""
    size = len(data)
    # Beginnings and ends say what the rest is.
    place = st.integers(0, size - 1) | st.integers(0, min(size - 1, 200)) | st.integers(max(0, size - 800), size - 1)
    flips = st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=6)
    return st.one_of(
        place.map(lambda cut: data[:cut]),
        flips.map(lambda pairs: _flipped(data, pairs)),
        flips.map(lambda pairs: _flipped(data, pairs)),
        st.tuples(place, place).map(lambda cut: data[: min(cut)] + data[max(cut) :]),
        st.tuples(place, st.binary(max_size=20)).map(lambda more: data[: more[0]] + more[1] + data[more[0] :]),
        st.binary(max_size=100),
        st.just(data),
    )


def _flipped(data: bytes, pairs: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for place, byte in pairs:
        changed[place] = byte
    return bytes(changed)


MARKER = Path('executed')
"""The file, in the current folder, that code of an input would make."""


class Evil:
    """Unpickled, it makes a file."""

    def __reduce__(self):
        return os.mkdir, (str(MARKER),)
