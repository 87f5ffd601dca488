"""The command of the fuzzing campaign."""

import argparse
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings

from timm_debias import DebiasError
from timm_debias.escaping import one_line

from . import commands, images, results, studies, texts, weights  # noqa: F401 (each adds its targets)
from .mutations import MARKER
from .target import TARGETS, Target


@dataclass
class Tally:
    """What became of the inputs."""

    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    tracebacks: int = 0
    silent: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f'inputs: {self.inputs}, refused: {self.refused}, accepted: {self.accepted}'
        return f'{counts}, tracebacks: {self.tracebacks}, silent acceptances: {self.silent}'


def fuzz(chosen: Target, examples: int, seed: int) -> Tally:
    """Give a target so many inputs; a problem ends it, and is made as small as it goes."""
    tally = Tally()

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(chosen.inputs)
    def give(value) -> None:
        tally.inputs += 1
        try:
            _read(chosen, value)
        except DebiasError as error:
            words = one_line(str(error))
            tally.refused += 1
            if not words:
                raise RuntimeError('an error without words') from error
        else:
            tally.accepted += 1

    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Decoders and parsers warn of what they accept.
            give()
    except Exception as error:
        if isinstance(error, AssertionError) and Path(_place(error)).parent == Path(__file__).parent:
            tally.silent += 1
        else:
            tally.tracebacks += 1
        tally.problems.append(f'{chosen.name}: {_shown(error)}')
    return tally


def _place(error: BaseException) -> str:
    """Return the file whose line raised an error."""
    return traceback.extract_tb(error.__traceback__)[-1].filename


def _read(chosen: Target, value: object) -> None:
    """Let a target read an input, in a folder of its own in which nothing else may be made."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as outside:
        folder = Path(outside) / 'folder'
        folder.mkdir()
        os.chdir(outside)
        try:
            chosen.read(value, folder)
        finally:
            os.chdir(before)
            executed = (Path(outside) / MARKER).exists()
            others = [name for name in os.listdir(outside) if name not in (folder.name, MARKER.name)]
            assert not executed, 'code of the input was executed'
            assert not others, f'{others} written outside the folder'


def _shown(error: BaseException) -> str:
    lines = traceback.format_exception(error)
    notes = getattr(error, '__notes__', [])
    return ''.join(lines)[-1500:] + ' '.join(notes)[:1500]


def main(argv: list[str] | None = None) -> int:
    """Run the campaign; the exit code is 1 where there was a problem."""
    parser = argparse.ArgumentParser(prog='python -m tests.fuzz', description=__doc__)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--times', type=float, default=2, help='inputs, as a multiple of those that the tests give')
    parser.add_argument('--only', default='', metavar='TEXT', help='targets with this in their name')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    total = Tally()
    for chosen in TARGETS:
        if args.only not in chosen.name:
            continue
        start = time.monotonic()
        tally = fuzz(chosen, max(1, round(chosen.examples * args.times)), args.seed)
        print(f'{chosen.name}: {tally}, {time.monotonic() - start:.0f} s', flush=True)
        for name in ('inputs', 'refused', 'accepted', 'tracebacks', 'silent', 'problems'):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
    logging.disable(logging.NOTSET)
    print(*total.problems, sep='\n\n', end='\n' if total.problems else '')
    print(f'All: {total}')
    return 1 if total.problems or not total.inputs else 0


if __name__ == '__main__':
    sys.exit(main())
