"""Flags from dataclasses, and YAML defaults for them."""

import argparse
import shlex
from dataclasses import dataclass

import pytest

from timm_debias import DebiasError
from timm_debias.flags import ParseKwargs, Parser, add_flags, command_line, config_from, flag, parse_with_yaml


@dataclass(frozen=True)
class Config:
    """Things"""

    name: str = flag('a', 'a name')
    count: int | None = flag(None, 'a count', '-n', '--count', type=int)
    rate: float = flag(0.5, 'a rate')
    fast: bool = flag(False, 'a switch')
    sizes: list[int] = flag([1, 2], 'a list', nargs='+', type=int)
    mode: str = flag('x', 'a choice', choices=['x', 'y'])
    warm: bool | None = flag(None, 'on, off or neither', action=argparse.BooleanOptionalAction)
    words: dict = flag({}, 'key=value', nargs='*', action=ParseKwargs)
    plain: int = 3


def parser() -> Parser:
    made = Parser(prog='test')
    made.add_argument('-c', '--config')
    add_flags(made, Config)
    return made


def parse(*argv: str) -> Config:
    return config_from(Config, parse_with_yaml(parser(), argv))


def test_defaults_are_those_of_the_dataclass():
    assert parse() == Config()


def test_command_line():
    config = parse('--name', 'b', '-n', '4', '--rate', '2', '--fast', '--sizes', '5', '6', '7', '--mode', 'y')
    assert config == Config('b', 4, 2.0, True, [5, 6, 7], 'y')


def test_lists_are_not_shared():
    first = Config()
    first.sizes.append(3)
    assert Config().sizes == [1, 2]


def test_title_and_help():
    text = parser().format_help()
    assert 'Things' in text
    assert 'a rate (default: 0.5)' in text
    assert '--plain' not in text


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('name: b\ncount: 4\nfast: true\nsizes: [5]', Config('b', 4, 0.5, True, [5])),
        ('rate: 1e-3', Config(rate=1e-3)),  # PyYAML reads 1e-3 as a string
        ('rate: 2', Config(rate=2.0)),
        ('count: null\nconfig: ""', Config()),
    ],
)
def test_yaml(tmp_path, text, expected):
    path = tmp_path / 'a.yaml'
    path.write_text(text)
    assert parse('-c', str(path)) == expected


def test_command_line_overrides_yaml(tmp_path):
    path = tmp_path / 'a.yaml'
    path.write_text('name: b\nrate: 0.1')
    assert parse('--rate', '0.9', '-c', str(path)) == Config('b', rate=0.9)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('nmae: b', "unknown key 'nmae'. Did you mean 'name'?"),
        ('plain: 1', "unknown key 'plain'"),
        ('count: ten', "'count': expected int, found 'ten'"),
        ('fast: 1', "'fast' is a switch"),
        ('sizes: 5', "'sizes': expected a list"),
        ('name: [a, b]', "'name': expected one value"),
        ('sizes: [a]', "'sizes': expected int"),
        ('sizes:', "'sizes' has no value; give one, or leave it out for [1, 2]"),
        ('words:', "'words' has no value; give one, or leave it out for {}"),
        ('rate:', "'rate' has no value; give one, or leave it out for 0.5"),
        ('mode: z', "'mode' is 'z', which is no choice. Known: x, y."),
        ('- a', 'expected lines of the form'),
        ('a: [', 'not a YAML file'),
        ('!!python/object/apply:os.system ["true"]', 'not a YAML file'),
    ],
)
def test_yaml_mistakes(tmp_path, text, message):
    path = tmp_path / 'a.yaml'
    path.write_text(text)
    with pytest.raises(DebiasError) as caught:
        parse('-c', str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['--nmae', 'b'], "Did you mean '--name'"),
        (['--coun', '3'], "Did you mean '--count'"),
        (['--count', 'ten'], 'invalid int value'),
        (['--mode', 'z'], 'invalid choice'),
        (['-c', 'missing.yaml'], '-c missing.yaml: no such file.'),
    ],
)
def test_command_line_mistakes(argv, message):
    with pytest.raises(DebiasError) as caught:
        parse(*argv)
    assert message in str(caught.value)


def test_near_names(tmp_path):
    (tmp_path / 'resnet50.yaml').write_text('')
    with pytest.raises(DebiasError, match=r"resnet5\.yaml: no such file\. Did you mean 'resnet50\.yaml'\?"):
        parse('-c', str(tmp_path / 'resnet5.yaml'))
    made = Parser(prog='test')
    made.add_argument('kind', choices=['corrupted', 'stylized'])
    with pytest.raises(DebiasError, match=r"\(choose from .*stylized'?\)\. Did you mean 'corrupted'\?"):
        made.parse_args(['corupted'])


@pytest.mark.parametrize(
    'argv',
    [
        [],
        ['--name', 'a b; $x', '--warm'],
        ['--no-warm'],
        ['--count', '4', '--rate', '2.0', '--fast', '--sizes', '5', '6', '--mode', 'y'],
    ],
)
def test_a_command_line_gives_its_values_back(argv):
    values = vars(parser().parse_args(argv))
    assert shlex.split(command_line(parser(), values)) == argv
