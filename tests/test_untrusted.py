"""What parsers leave open is closed: limits, doubled keys, numbers and texts that are none."""

import json

import pytest
import yaml

from timm_debias import DebiasError
from timm_debias.untrusted import MAX_DEPTH, check_limits, parse_json, parse_yaml, read_json, read_text

PLAIN = {'a': [1, 2.5, None, True, 'né\n\t'], 'b': {'c': {}}, 'd': -1e300}


def test_plain_values():
    assert parse_json(json.dumps(PLAIN)) == PLAIN
    assert parse_yaml(yaml.safe_dump(PLAIN)) == PLAIN
    assert parse_yaml('a: .nan')['a'] != parse_yaml('a: .nan')['a']  # Flags say themselves which numbers they take.
    assert parse_yaml('') is None


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('{', 'Expecting'),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ('[NaN]', 'the number NaN'),
        ('[-Infinity]', 'the number -Infinity'),
        ('[1e999]', 'the number inf'),
        ('["\\ud800"]', 'no Unicode'),
        ('["\\u001b[2J"]', 'control character'),
        ('["\\u009b"]', 'control character'),
        ('{"\\u0000": 1}', 'control character'),
        ('[' * (MAX_DEPTH + 2) + ']' * (MAX_DEPTH + 2), 'within each other'),
        ('[' * 100_000 + ']' * 100_000, 'within each other'),
        ('9' * 5000, 'digits'),
    ],
)
def test_json_that_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('a: [', 'while parsing'),
        ('a: 1\na: 2', "'a' is given twice"),
        ('{b: {a: 1, a: 2}}', "'a' is given twice"),
        ('!!python/object/apply:os.system [touch x]', 'could not determine a constructor'),
        ('!!python/name:os.system', 'could not determine a constructor'),
        ('a: !!python/tuple [1, 2]', 'could not determine a constructor'),
        ('a: 2001-99-99', 'month must be in'),
        ('a: !!int x', 'invalid literal'),
        ('a: !!timestamp x', '.'),
        ('a: !!bool x', '.'),
        ('a: !!binary "\u00e9"', '.'),
        ('? []\n: 1', 'unhashable'),
        ('a: "\\ud800"', '.'),
        ('a: "\\e[2J"', 'control character'),
        ('a: &a [*a]', 'within each other'),
        ('[' * 100_000, '.'),
    ],
)
def test_yaml_that_is_refused(text, words):
    with pytest.raises(ValueError, match=words) as raised:
        parse_yaml(text)
    assert '\n' not in str(raised.value)


def test_a_few_lines_that_stand_for_billions():
    """Each line holds the one before it nine times: 9¹² values."""
    lines = ['a0: &a0 [x, x, x, x, x, x, x, x, x]']
    lines += [f'a{n}: &a{n} [{", ".join([f"*a{n - 1}"] * 9)}]' for n in range(1, 12)]
    with pytest.raises(ValueError, match='more than 1,000,000 values'):
        parse_yaml('\n'.join(lines))


def test_aliases_that_merge_are_known():
    assert parse_yaml('a: &a {x: 1}\nb: {<<: *a, y: 2}')['b'] == {'x': 1, 'y': 2}


def test_values_are_all_looked_at():
    seen = []
    check_limits({'a': [1, (2, {3})]}, check=seen.append)
    assert {1, 2, 3, 'a'} <= {value for value in seen if isinstance(value, (int, str))}


def test_files(tmp_path, monkeypatch):
    path = tmp_path / 'x.json'
    path.write_bytes(b'\xff')
    with pytest.raises(ValueError, match='utf-8'):
        read_text(path)
    with pytest.raises(DebiasError, match=r'x\.json: damaged, or not a list'):
        read_json(path, 'a list')
    with pytest.raises(DebiasError, match=r'not a list .*No such file'):
        read_json(tmp_path / 'none', 'a list')
    monkeypatch.setattr('timm_debias.untrusted.MAX_BYTES', 10)
    path.write_text('[1, 2, 3, 4]')
    with pytest.raises(DebiasError, match='larger than'):
        read_json(path, 'a list')
