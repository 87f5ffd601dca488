"""Command-line flags declared as fields of frozen dataclasses: one place for name, type, default and help.

    @dataclass(frozen=True)
    class DataConfig:
        '''Dataset parameters'''
        data_dir: str | None = flag(None, 'path to the data set', metavar='DIR')

`add_flags` gives the parser `--data-dir`, `config_from` builds the dataclass from what was parsed, and below that
nobody sees argparse. The docstring's first line is the title of the group in `--help`.
"""

import argparse
import dataclasses
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from timm import utils

from .errors import DebiasError, did_you_mean, near_names, reason
from .untrusted import parse_yaml, read_text

Config = TypeVar('Config')

_INVALID_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)$")


def flag(default: Any, help: str, *names: str, executes: Callable[[Any], bool] | None = None, **options: Any) -> Any:
    """Declare a dataclass field that is also a command-line flag.

    Args:
        default: Value where the flag is not given. A list or dict is copied for each instance.
        help: Text for `--help`.
        names: Names on the command line; `--` + the field's name where empty.
        executes: Whether a value makes the program execute code that it names; no file may give such a value.
        options: Passed to `ArgumentParser.add_argument`. `type` is taken from the default where not given;
            a default of False makes a switch.
    """
    metadata = {'names': names, 'executes': executes, 'options': {'help': help, **options}}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def add_flags(parser: argparse.ArgumentParser, config: type) -> None:
    """Add a group to `parser` with a flag for each field of the dataclass `config`."""
    group = parser.add_argument_group((config.__doc__ or '').strip().splitlines()[0])
    for field in dataclasses.fields(config):
        if 'options' not in field.metadata:
            continue
        names = _names(field)
        options = dict(field.metadata['options'])
        default = _default(field)
        if default is False and 'action' not in options:
            options['action'] = 'store_true'
        elif 'action' not in options and 'type' not in options:
            options['type'] = str if default is None or isinstance(default, list) else type(default)
        if any(name.startswith('-') for name in names):
            options['dest'] = field.name
        action: Any = group.add_argument(*names, default=default, **options)
        action.executes = field.metadata['executes']


def name_of(field: dataclasses.Field) -> str:
    """Return what a field that `flag` declared is called on the command line; long names alone, all of them."""
    return '/'.join(name for name in _names(field) if name.startswith('--'))


class ParseKwargs(utils.ParseKwargs):
    """timm's action for key=value, whose errors are those of the parser."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        keys = [value.partition('=')[0] for value in values]
        for value, key in zip(values, keys, strict=True):
            if value and ('=' not in value or not key.isidentifier()):
                parser.error(f"argument {option_string}: '{value}': expected key=value")
            if keys.count(key) > 1:
                parser.error(f"argument {option_string}: '{key}' is given twice")
        try:
            super().__call__(parser, namespace, values, option_string)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            parser.error(f'argument {option_string}: expected values of Python, such as 1, 0.5, True or a word')


def config_from(config: type[Config], args: argparse.Namespace) -> Config:
    """Build the dataclass `config` from the fields of that name in `args`."""
    fields = [field.name for field in dataclasses.fields(config) if 'options' in field.metadata]  # type: ignore[arg-type]
    return config(**{name: getattr(args, name) for name in fields})


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose every error is a `DebiasError`, and that refuses abbreviated flags.

    Args:
        others: Flags that another parser has taken from the command line before: an unknown one may be meant for it.
        options: Those of ArgumentParser.
    """

    def __init__(self, others: Iterable[str] = (), **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **options)
        self.others = tuple(others)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; refuse NaN and infinite numbers, which no flag means."""
        parsed, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, float) and not math.isfinite(number):
                    self.error(f'{max(action.option_strings, key=len)} is {number}; expected a finite number')
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        prefix = 'unrecognized arguments: '
        if message.startswith(prefix):
            unknown = [word for word in message.removeprefix(prefix).split() if word.startswith('-')]
            known = {*self._option_string_actions, *self.others}
            hints = [did_you_mean(word.split('=')[0], known) for word in unknown]
            message = ' '.join([message + '.', *filter(None, hints)])
        elif choice := _INVALID_CHOICE.search(message):
            hint = near_names(choice[1], re.findall(r"[^\s',]+", choice[2]))
            message = f'{message}. {hint}' if hint else message
        raise DebiasError(message)


def parse_with_yaml(
    parser: Parser, argv: Sequence[str] | None, executes: bool = True, same: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse `argv`; the YAML file named by `-c/--config` gives defaults that flags on the command line override.

    Args:
        parser: The parser.
        argv: The command line.
        executes: Whether the command may execute what flags name; the file must name nothing then.
        same: Flags that say the same thing: one on the command line overrides the others of the file, too.

    Raises:
        DebiasError: a mistake on the command line or in the file.
    """
    config_parser = Parser(add_help=False)
    config_parser.add_argument('-c', '--config', default='')
    known, remaining = config_parser.parse_known_args(argv)
    if not known.config:
        return parser.parse_args(remaining)
    where = f'-c {known.config}'
    defaults = {name: parser.get_default(name) for name in same}
    parser.set_defaults(**check_values(read_yaml(Path(known.config), where), parser, where, executes))
    args = parser.parse_args(remaining)
    given = [name for name in same if getattr(args, name) != parser.get_default(name)]
    for name in set(same).difference(given) if given else ():
        setattr(args, name, defaults[name])
    return args


def command_line(parser: Parser, values: Mapping[str, Any]) -> str:
    """Return the arguments, quoted for a shell, that give `values` where they differ from the defaults of `parser`."""
    words: list[str] = []
    for action in parser._actions:
        value = values.get(action.dest, action.default)
        if value == action.default or action.dest == 'help':
            continue
        items = [f'{key}={item}' for key, item in value.items()] if isinstance(value, dict) else value
        if isinstance(action, argparse.BooleanOptionalAction):
            words += [name for name in action.option_strings if name.startswith('--no-') != value]
        elif action.option_strings:
            words += [max(action.option_strings, key=len)]
        if action.nargs != 0:
            words += map(str, items if isinstance(items, (list, tuple)) else [items])
    return shlex.join(words)


def add_config_flag(parser: Parser) -> None:
    """Add `-c/--config`, the flag that `parse_with_yaml` reads."""
    parser.add_argument('-c', '--config', default='', metavar='FILE', help='YAML file of defaults for these flags')


def read_yaml(path: Path, where: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; nothing in it is executed.

    Args:
        path: The file.
        where: What to call it in an error.

    Raises:
        DebiasError: a file that cannot be read, is no YAML or holds something else.
    """
    try:
        values = parse_yaml(read_text(path))
    except FileNotFoundError as error:
        siblings = [file.name for file in path.parent.glob('*.y*ml')]
        raise DebiasError(f'{where}: no such file. {near_names(path.name, siblings)}'.rstrip()) from error
    except OSError as error:
        raise DebiasError(f'{where}: {error.strerror or error}') from error
    except ValueError as error:
        raise DebiasError(f'{where}: not a YAML file: {reason(error)}') from error
    if not isinstance(values, dict):
        raise DebiasError(f'{where}: expected lines of the form "name: value"')
    return values


def check_values(values: Mapping[str, Any], parser: Parser, where: str, executes: bool = True) -> dict[str, Any]:
    """Return values by the flags' field names, converted as argparse would convert the same words.

    Args:
        values: What a file says.
        parser: Knows the flags.
        where: What to call the file in an error.
        executes: Whether the command may execute what flags name.

    Raises:
        DebiasError: an unknown flag, a value of another type, or one that would execute code.
    """
    check_keys(values, parser, where)
    actions = {action.dest: action for action in parser._actions}
    for key in values:
        would_execute = getattr(actions[key], 'executes', None)
        if executes and would_execute is not None and would_execute(values[key]):
            name = max(actions[key].option_strings, key=len, default='')
            raise DebiasError(
                f"{where}: '{key}' is {values[key]!r}, which executes code, and only the command line may ask so: "
                f'remove it from the file, and give {name or "it"} there if you trust what it names'
            )
    return {key: _checked(where, key, value, actions[key]) for key, value in values.items()}


def check_keys(keys: Iterable[str], parser: Parser, where: str) -> None:
    """Raise `DebiasError` for the first key that is no field name of a flag, with near ones."""
    known = [action.dest for action in parser._actions if action.dest != 'help']
    for key in keys:
        if key not in known:
            raise DebiasError(f"{where}: unknown key '{key}'. {did_you_mean(str(key), known)}")


def _checked(where: str, key: str, value: Any, action: argparse.Action) -> Any:
    """Convert a YAML value as argparse would convert the same words of the command line."""
    if value is None and action.default is not None:
        raise DebiasError(f"{where}: '{key}' has no value; give one, or leave it out for {action.default!r}")
    if value is None or (isinstance(action.default, dict) and isinstance(value, dict)):
        return value
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise DebiasError(f"{where}: '{key}' is a switch: expected true or false, found {value!r}")
        return value
    many = action.nargs in ('+', '*') or isinstance(action.nargs, int)
    nested = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, (dict, list, set))]
    if nested or many != isinstance(value, list):
        raise DebiasError(f"{where}: '{key}': expected {'a list' if many else 'one value'}, found {value!r}")
    convert = action.type if callable(action.type) else str
    try:
        converted = [convert(str(item)) for item in (value if many else [value])]
    except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
        name = getattr(convert, '__name__', 'value')
        raise DebiasError(f"{where}: '{key}': expected {name}, found {value!r}") from error
    for item in converted:
        if action.choices is not None and item not in action.choices:
            hint = did_you_mean(str(item), map(str, action.choices))
            raise DebiasError(f"{where}: '{key}' is '{item}', which is no choice. {hint}")
    return converted if many else converted[0]


def _names(field: dataclasses.Field) -> tuple[str, ...]:
    return field.metadata['names'] or (f'--{field.name.replace("_", "-")}',)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
