"""Makes the images of a study's tests: the commands that `make` names, each into a folder of its own."""

import logging
from collections.abc import Mapping
from pathlib import Path

import yaml

from .. import cli
from ..draw import build_parser as draw_parser
from ..errors import DebiasError
from ..files import write_text
from ..make_benchmark.main import build_parser as make_benchmark_parser
from .config import Step, Study
from .grid import filled, parsed
from .lock import locked

_logger = logging.getLogger(__name__)


def check_steps(study: Study, variables: Mapping[str, str], where: str) -> None:
    """Raise `DebiasError` for the first mistake in the flags of a step."""
    for name, step in study.make.items():
        try:
            words, flags = _command(step, variables)
            parser = draw_parser() if step.command == 'draw' else make_benchmark_parser()
            parsed(flags, parser, step.command, words[1:])
        except DebiasError as error:
            raise DebiasError(f'{where}: make: {name}: {error}') from error


def make_all(study: Study, variables: Mapping[str, str], folder: Path) -> None:
    """Make what `folder` does not have yet; each step goes on where it was interrupted.

    Raises:
        DebiasError: a step that failed, or a folder that holds something else.
    """
    for name, step in study.make.items():
        words, flags = _command(step, variables)
        path = folder / f'{name}.yaml'
        # Of several shards that start together, the others wait for the first.
        with locked(folder / f'.{name}.lock', wait=True):
            _logger.info(f'{step.command}: {folder / name}')
            write_text(path, yaml.safe_dump(flags | {'output': str(folder / name)}))
            if cli.run(words[0], [*words[1:], '-c', str(path)]):
                raise DebiasError(f'make: {name} was not made, see above')


def _command(step: Step, variables: Mapping[str, str]) -> tuple[list[str], dict]:
    """Return the words of a step's command line, and its flags."""
    flags = filled(step.flags, variables)
    if step.command == 'draw':
        return ['draw'], flags
    if 'kind' not in flags:
        raise DebiasError("'kind' is missing: what make-benchmark is to make")
    return ['make-benchmark', str(flags.pop('kind'))], flags
