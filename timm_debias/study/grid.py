"""The runs of a study: every data set with every architecture, method and seed."""

import argparse
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..errors import DebiasError
from ..flags import Parser, check_keys, check_values
from ..training.checks import check_config as check_train
from ..training.main import build_parser as train_parser
from ..training.main import config_from_args as train_config
from ..validation.main import build_parser as validate_parser
from ..validation.main import config_from_args as validate_config
from ..validation.selection import check_suite, check_wanted
from .config import CHECKPOINTS, Flags, Study, Variant
from .state import STATE, read_state

_OWN = {
    'train.py': ('config', 'experiment', 'output', 'resume', 'seed'),
    'validate.py': ('config', 'checkpoint', 'models', 'results_dir', 'results_file', 'resume', 'shard'),
}
"""Flags that the study sets itself."""

_SHARED = (
    'model', 'num_classes', 'gp', 'img_size', 'in_chans', 'input_size', 'crop_pct', 'mean', 'std', 'interpolation',
    'fast_norm', 'model_kwargs', 'channels_last', 'device', 'amp', 'amp_dtype', 'workers',
)  # fmt: skip
"""Flags of train.py that validate.py is given too."""

_VARIABLE = re.compile(r'\$\{(\w+)\}')

_WEIGHTS = ('pretrained_path', 'initial_checkpoint')
"""Flags of train.py that name weights, which may be those of another study's run."""


def run_name(data: str, model: str, method: str, seed: int) -> str:
    """Return the name of a run and of its folder, such as 'resnet18.debiased.0'."""
    return '.'.join(filter(None, [data, model, method, str(seed)]))


@dataclass(frozen=True)
class Run:
    """A model to train and to measure."""

    data: str
    model: str
    method: str
    seed: int
    train: Flags
    """Flags of train.py; texts may hold `${NAME}`."""

    validate: Flags

    checkpoint: str = CHECKPOINTS['last']
    """File of the run's folder that is measured."""

    @property
    def name(self) -> str:
        """Name of the run and of its folder."""
        return run_name(self.data, self.model, self.method, self.seed)

    @property
    def flags(self) -> str:
        """First digits of the SHA-256 of all flags: runs of the same name and flags are the same run."""
        # The last checkpoint is left out: digits that were stored before there was a choice stay what they are.
        checkpoint = [] if self.checkpoint == CHECKPOINTS['last'] else [self.checkpoint]
        words = json.dumps([self.train, self.validate, *checkpoint], sort_keys=True)
        return hashlib.sha256(words.encode()).hexdigest()[:12]

    @property
    def variables(self) -> dict[str, str]:
        """What `${data}`, `${model}`, `${method}` and `${seed}` stand for."""
        return {'data': self.data, 'model': self.model, 'method': self.method, 'seed': str(self.seed)}


def expand(study: Study) -> list[Run]:
    """Return the runs of a study, seed by seed, so that an interrupted study has whole comparisons.

    Raises:
        DebiasError: `times` of a flag that is not set.
    """
    nothing = {'': Variant('', {}, {}, {})}
    return [
        _run(
            study, (data, study.data.get(data)), (model, study.models.get(model)), (method, study.methods[method]), seed
        )
        for seed in study.seeds
        for data in study.data or nothing
        for model in study.models or nothing
        for method in study.methods
    ]


def _run(
    study: Study,
    data: tuple[str, Variant | None],
    model: tuple[str, Variant | None],
    method: tuple[str, Variant],
    seed: int,
) -> Run:
    train, validate = dict(study.train), dict(study.validate)
    for name, variant in (data, model, method):
        if variant is None:
            continue
        train |= variant.train
        validate |= variant.validate
        for flag, factor in variant.times.items():
            value = train.get(flag)
            numbers: list[Any] = value if isinstance(value, list) else [value]
            if not numbers or not all(_is_number(number) for number in numbers):
                raise DebiasError(f"{name}: times: '{flag}' is {value!r}; set it to a number in train, data or models")
            products = [_product(number, factor) for number in numbers]
            train[flag] = products if isinstance(value, list) else products[0]
    shared = {flag: value for flag, value in train.items() if flag in _SHARED}
    return Run(data[0], model[0], method[0], seed, train, shared | validate, study.checkpoint)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _product(number: float, factor: float) -> float:
    """Return the product, whole where it is whole and the number was: flags for numbers of epochs take no fractions."""
    product = number * factor
    return int(product) if isinstance(number, int) and float(product).is_integer() else product


def select(runs: Sequence[Run], patterns: Sequence[str], shard: tuple[int, int]) -> list[Run]:
    """Return the runs that `--runs` and `--shard` name.

    Raises:
        DebiasError: a pattern without runs.
    """
    for pattern in patterns:
        if not any(fnmatchcase(run.name, pattern) for run in runs):
            raise DebiasError(f"--runs '{pattern}': no run of this study; --list shows them, such as {runs[0].name}")
    chosen = [run for run in runs if not patterns or any(fnmatchcase(run.name, pattern) for pattern in patterns)]
    first, step = shard
    return chosen[first - 1 :: step]


def filled(value: Any, variables: Mapping[str, str]) -> Any:
    """Return a value with `${NAME}` in its texts replaced.

    Raises:
        DebiasError: a name that stands for nothing.
    """
    if isinstance(value, str):
        for name in _VARIABLE.findall(value):
            if name not in variables:
                raise DebiasError(f'{value}: ${{{name}}} stands for nothing; give --set {name}=VALUE')
        return _VARIABLE.sub(lambda match: variables[match[1]], value)
    if isinstance(value, list):
        return [filled(item, variables) for item in value]
    if isinstance(value, dict):
        return {key: filled(item, variables) for key, item in value.items()}
    return value


def check_names(runs: Sequence[Run], where: str) -> None:
    """Raise `DebiasError` for the first flag that a command does not have.

    To be called before runs are compared with earlier ones, which would seem to be of another study by a mistyped flag.
    """
    train, validate = train_parser(), validate_parser()
    for run in runs:
        check_keys(run.train, train, f'{where}: {run.name}: train.py')
        check_keys(run.validate, validate, f'{where}: {run.name}: validate.py')


def check_runs(runs: Sequence[Run], variables: Mapping[str, str], made: Iterable[str], where: str) -> None:
    """Check the flags of runs before anything is made or trained.

    Args:
        runs: The runs.
        variables: What `${NAME}` stands for.
        made: Names of the folders that `${MADE}` is going to have.
        where: The study, for errors.

    Raises:
        DebiasError: the first mistake.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in made:  # Empty ones stand for them.
            Path(folder, name).mkdir()
        for run in runs:
            names = run.variables | dict(variables) | {'MADE': folder}
            try:
                train = filled(run.train, names)
                _check_flags(train, filled(run.validate, names))
                _check_weights(train)
            except DebiasError as error:
                raise DebiasError(f'{where}: {run.name}: {error}') from error


def _check_flags(train: Flags, validate: Flags) -> None:
    check_train(train_config(parsed(train, train_parser(), 'train.py')))
    flags = parsed(validate, validate_parser(), 'validate.py')
    if not flags.benchmarks:
        raise DebiasError('validate.py: name the benchmarks to measure, such as "benchmarks: folder"')
    config = validate_config(flags)
    check_suite(config)
    check_wanted(config)


def _check_weights(train: Flags) -> None:
    for flag in _WEIGHTS:
        if not train.get(flag):
            continue
        try:
            state = read_state(Path(train[flag]).parent)
        except DebiasError as error:
            raise DebiasError(
                f"train.py: '{flag}': beside {train[flag]} lies a {STATE} that says nothing of a run; move one of them"
            ) from error
        if state is not None and state['status'] != 'finished':
            raise DebiasError(f"train.py: '{flag}': {train[flag]} is of a run that is not finished; finish it first")


def parsed(flags: Flags, parser: Parser, command: str, words: Sequence[str] = ()) -> argparse.Namespace:
    """Return flags as the parser of a command gives them, after `words` of a command line.

    Raises:
        DebiasError: a flag that the command does not have or the study sets itself, or a value of another type.
    """
    own = next((flag for flag in flags if flag in _OWN.get(command, ('config', 'output'))), None)
    if own is not None:
        raise DebiasError(f"{command}: '{own}' is set by the study itself; leave it out")
    parser.set_defaults(**check_values(flags, parser, command))
    return parser.parse_args(words)
