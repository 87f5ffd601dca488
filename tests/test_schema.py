"""Values that are not as they should be are named by their place."""

import pytest

from timm_debias.schema import both, count, list_of, mapping, mapping_of, number, optional, record, text, truth

CHECK = record(
    {'name': text, 'on': truth, 'values': list_of(number), 'pair': optional(list_of(count, length=2))},
    {'more': mapping_of(text)},
)
GOOD = {'name': 'a', 'on': True, 'values': [1, 2.5], 'pair': [0, 3], 'more': {'x': 'y'}, 'unknown': object()}


def test_good():
    CHECK(GOOD, 'file')
    CHECK(GOOD | {'pair': None}, 'file')


@pytest.mark.parametrize(
    ('change', 'where'),
    [
        ({'name': 1}, 'file: name: expected a text'),
        ({'on': 1}, 'file: on: expected true or false'),
        ({'values': {}}, 'file: values: expected a list'),
        ({'values': [1, True]}, 'file: values: 2: expected a number'),
        ({'values': [float('nan')]}, 'expected a number'),
        ({'values': [1e300]}, 'expected a number'),
        ({'pair': [1]}, 'expected a list of 2'),
        ({'pair': [1, -1]}, 'file: pair: 2: expected a whole number'),
        ({'pair': [1, 1.0]}, 'expected a whole number'),
        ({'more': {'x': None}}, 'file: more: x: expected a text'),
    ],
)
def test_bad(change, where):
    with pytest.raises(ValueError, match=where):
        CHECK(GOOD | change, 'file')


def test_missing_and_other_kinds():
    with pytest.raises(ValueError, match="'on' is missing"):
        CHECK({key: value for key, value in GOOD.items() if key != 'on'}, 'file')
    for value in (None, [], 'x'):
        with pytest.raises(ValueError, match='expected names with values'):
            CHECK(value, 'file')
    with pytest.raises(ValueError, match='expected a text'):
        both(mapping, mapping_of(text))({'a': 1}, 'file')
