"""The study's YAML file: what is trained, how it is measured, and which figures the report shows."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import check_seed
from ..errors import DebiasError, did_you_mean
from ..flags import read_yaml
from ..untrusted import parse_json

Flags = dict[str, Any]
"""Values of flags by their field names, as in a file of `-c`; texts may hold `${NAME}`."""

AXES = ('data', 'models', 'methods')
"""What varies between runs besides the seed: data sets, architectures, ways to train."""

POOLED = 'mean'
"""What the mean over data sets is called in the names of drawings and in tests.csv."""

STEPS = ('draw', 'make-benchmark')
"""Commands that `make` may call."""

_KEYS = {
    'name': str,
    'title': str,
    'description': str,
    'discussion': str,
    'make': dict,
    'train': dict,
    'validate': dict,
    'data': dict,
    'models': dict,
    'methods': dict,
    'seeds': list,
    'baselines': list,
    'measures': dict,
    'checkpoint': str,
    'pictures': bool,
}
_REQUIRED = ('name', 'title', 'train', 'validate', 'methods', 'seeds', 'baselines', 'measures')
_NAME = re.compile(r'[A-Za-z0-9][\w+-]*')
CHECKPOINTS = {'last': 'last.pth.tar', 'best': 'model_best.pth.tar'}
"""Files of a run's folder by what `checkpoint` calls them."""

_BETTER = ('higher', 'lower', 'none')


@dataclass(frozen=True)
class Variant:
    """A data set, an architecture or a method: what it changes in the flags of the runs."""

    label: str
    train: Flags
    validate: Flags
    times: dict[str, float]
    """Flags of train.py to multiply, lists number by number: the epochs of a baseline, say."""


@dataclass(frozen=True)
class Step:
    """Images to make before the runs."""

    command: str
    flags: Flags


@dataclass(frozen=True)
class Measure:
    """A figure of the report's tables."""

    label: str
    column: str
    """Column of results.csv."""

    better: str
    """Which values are better: 'higher', 'lower' or 'none'."""


@dataclass(frozen=True)
class Study:
    """What a study file says."""

    name: str
    title: str
    description: str
    discussion: str
    make: dict[str, Step]
    train: Flags
    validate: Flags
    data: dict[str, Variant]
    models: dict[str, Variant]
    methods: dict[str, Variant]
    seeds: list[int]
    baselines: list[str]
    """Methods that the others are compared with, pair by pair of a seed."""

    measures: list[Measure]
    checkpoint: str
    """File of a run's folder that is measured."""

    pictures: bool
    """Whether the report shows images of the tests."""


def read_study(path: Path) -> Study:
    """Return what a study file says.

    Raises:
        DebiasError: a file that cannot be read, or the first mistake in it.
    """
    values = _plain(read_yaml(path, str(path)), str(path))
    for key, value in values.items():
        if key not in _KEYS:
            raise DebiasError(f"{path}: unknown key '{key}'. {did_you_mean(str(key), _KEYS)}")
        if not isinstance(value, _KEYS[key]):
            raise DebiasError(f"{path}: '{key}': expected {_words(_KEYS[key])}, found {value!r}")
    missing = [key for key in _REQUIRED if key not in values]
    if missing:
        raise DebiasError(f'{path} lacks {", ".join(missing)}')
    axes = {axis: _variants(values.get(axis, {}), path.parent, f'{path}: {axis}') for axis in AXES}
    if POOLED in axes['data']:
        raise DebiasError(f"{path}: data: '{POOLED}' is the name of the mean over data sets; choose another")
    checkpoint = values.get('checkpoint', 'last')
    if checkpoint not in CHECKPOINTS:
        raise DebiasError(f"{path}: 'checkpoint': {did_you_mean(checkpoint, CHECKPOINTS)}")
    _check_name(values['name'], f'{path}: name')
    return Study(
        name=values['name'],
        title=_label(values['title'], f'{path}: title'),
        description=values.get('description', ''),
        discussion=values.get('discussion', ''),
        make=_steps(values.get('make', {}), f'{path}: make'),
        train=_with_recipe(values['train'], path.parent, f'{path}: train'),
        validate=values['validate'],
        **axes,
        seeds=_seeds(values['seeds'], f'{path}: seeds'),
        baselines=_baselines(values['baselines'], axes['methods'], f'{path}: baselines'),
        measures=_measures(values['measures'], f'{path}: measures'),
        checkpoint=CHECKPOINTS[checkpoint],
        pictures=values.get('pictures', False),
    )


def _words(kind: type) -> str:
    return {str: 'a text', dict: 'lines of the form "name: value"', list: 'a list', bool: 'true or false'}[kind]


def _check_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DebiasError(f'{where}: {name!r} becomes part of file names; use letters, digits, _, + and -')


def _label(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value.splitlines()) > 1:
        raise DebiasError(f'{where}: expected a text of one line, found {value!r}')
    return value


def _variants(values: Mapping[str, Any], folder: Path, where: str) -> dict[str, Variant]:
    variants = {}
    for name, flags in values.items():
        _check_name(name, where)
        flags = dict(_mapping({} if flags is None else flags, f'{where}: {name}'))
        variants[name] = Variant(
            label=_label(flags.pop('label', name), f'{where}: {name}: label'),
            validate=dict(_mapping(flags.pop('validate', {}), f'{where}: {name}: validate')),
            times=_times(flags.pop('times', {}), f'{where}: {name}: times'),
            train=_with_recipe(flags, folder, f'{where}: {name}'),
        )
    labels = [variant.label for variant in variants.values()]
    for label in labels:
        if labels.count(label) > 1:
            raise DebiasError(f"{where}: two have the label '{label}'")
    return variants


def _with_recipe(flags: Flags, folder: Path, where: str) -> Flags:
    """Return flags over those of the file that `recipe` names, relative to the folder of the study file."""
    flags = dict(flags)
    if 'recipe' not in flags:
        return flags
    path = folder / str(flags.pop('recipe'))
    recipe = f'{where}: recipe {path}'
    return _plain(read_yaml(path, recipe), recipe) | flags


def _plain(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return JSON values, for they are compared with what earlier runs stored."""
    try:
        return parse_json(json.dumps(values, default=str))
    except (TypeError, ValueError) as error:  # A date as a name, the names 1 and '1', or a number that is infinite.
        raise DebiasError(f'{where}: {error}; expected different texts as names, and finite numbers') from error


def _times(values: Any, where: str) -> dict[str, float]:
    for flag, factor in _mapping(values, where).items():
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or factor <= 0:
            raise DebiasError(f'{where}: {flag}: expected a factor above 0, found {factor!r}')
    return dict(values)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DebiasError(f'{where}: expected lines of the form "name: value", found {value!r}')
    return value


def _steps(values: Mapping[str, Any], where: str) -> dict[str, Step]:
    steps = {}
    for name, flags in values.items():
        _check_name(name, where)
        flags = dict(_mapping(flags, f'{where}: {name}'))
        command = flags.pop('command', None)
        if not isinstance(command, str) or command not in STEPS:
            raise DebiasError(f"{where}: {name}: 'command' is {command!r}; expected one of {', '.join(STEPS)}")
        steps[name] = Step(command, flags)
    return steps


def _seeds(values: list[Any], where: str) -> list[int]:
    if not values or len(set(map(str, values))) != len(values):
        raise DebiasError(f'{where}: expected different numbers, found {values}')
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise DebiasError(f'{where}: expected whole numbers from 0, found {value!r}')
        try:
            check_seed(value)
        except DebiasError as error:
            raise DebiasError(f'{where}: {error}') from error
    return values


def _baselines(values: list[Any], methods: Mapping[str, Variant], where: str) -> list[str]:
    if not values:
        raise DebiasError(f'{where}: name at least one of methods')
    for value in values:
        if not isinstance(value, str) or value not in methods:
            raise DebiasError(f"{where}: '{value}' is none of methods. {did_you_mean(str(value), methods)}")
        if values.count(value) > 1:
            raise DebiasError(f"{where}: '{value}' is named twice")
    return values


def _measures(values: Mapping[str, Any], where: str) -> list[Measure]:
    if not values:
        raise DebiasError(f'{where}: name at least one, such as "accuracy: folder_top1"')
    measures = []
    for label, value in values.items():
        entry = {'column': value} if isinstance(value, str) else dict(_mapping(value, f'{where}: {label}'))
        unknown = [key for key in entry if key not in ('column', 'better')]
        if unknown or not isinstance(entry.get('column'), str):
            raise DebiasError(f'{where}: {label}: expected a column of results.csv, or "column" and "better"')
        better = str(entry.get('better', 'higher'))
        if better not in _BETTER:
            raise DebiasError(f"{where}: {label}: 'better' is '{better}'; expected one of {', '.join(_BETTER)}")
        measures.append(Measure(_label(label, where), entry['column'], better))
    return measures
