"""Command lines of train.py and validate.py, as far as their checks; nothing is trained or measured."""

import argparse
import contextlib
import io
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from timm_debias import DebiasError
from timm_debias.cli import main
from timm_debias.training.main import build_parser as train_parser
from timm_debias.validation.checks import check_config
from timm_debias.validation.main import build_parser as validate_parser

from .target import target
from .texts import same

NOT_HERE = ('help', 'config', 'device_modules')
WORDS = (
    '', '-1', '0', '1', '2', '0.5', '1e-3', 'nan', 'inf', '1e400', '-', '--', '=', 'x', '../x', '/', 'a=b', 'a=b=c',
    'a', 'a=[', 'a=1', 'None', 'é', '\x1b[2J', '\udc80', '9' * 30, '1_0', ' 1', 'cpu', 'test_resnet', 'resnet*', 'step',
    'adamw', 'true', '<script>', '%s', '@file', 'imagenet', 'all', 'fgsm', '.',
)  # fmt: skip


def _given(parser: argparse.ArgumentParser) -> st.SearchStrategy[list[list[str]]]:
    """Flags with values: those they take, and others."""
    actions = [action for action in parser._actions if action.dest not in NOT_HERE and action.option_strings]

    @st.composite
    def one(draw: Any) -> list[str]:
        action = draw(st.sampled_from(actions))
        name = draw(st.sampled_from(action.option_strings))
        fitting = st.sampled_from(WORDS)
        if action.choices:
            fitting = st.sampled_from([str(choice) for choice in action.choices])
        elif action.type is int:
            fitting = st.integers(-2, 500).map(str)
        elif action.type is not None and action.type is not str:
            fitting = st.floats(0, 2).map(str) | st.floats().map(str)
        value = st.one_of(fitting, fitting, fitting, st.sampled_from(WORDS), st.text(max_size=6))
        most = {0: 0, None: 1}.get(action.nargs, 3)  # type: ignore[call-overload]
        count = most if draw(st.integers(0, 9)) else draw(st.integers(0, 3))
        return [name, *(draw(value) for _ in range(count))]

    return st.lists(one(), min_size=1, max_size=3)


def _check(command: list[str], given: list[list[str]], parser: argparse.ArgumentParser,
           recorded: list[argparse.Namespace], patches: list[Any]) -> None:  # fmt: skip
    """Run a command up to where its work would begin; what it has read must be what was given."""
    argv = [*command, '--device', 'cpu', '--model', 'test_resnet', *(word for words in given for word in words)]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()), contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        code = main(argv)
    lines = [line for line in errors.getvalue().splitlines() if line.startswith(f'timm-debias {command[0]}: error: ')]
    if code == 2:
        assert len(lines) == 1, errors.getvalue()
        assert 'Traceback' not in errors.getvalue()
        raise DebiasError(lines[0])
    assert code == 0
    assert not lines
    if not recorded:
        return  # A list was printed.
    by_name = {name: action for action in parser._actions for name in action.option_strings}
    for number, (name, *words) in enumerate(given):
        action = by_name[name]
        again = any(by_name[other].dest == action.dest for other, *_ in given[number + 1 :])
        if len(words) == 1 and action.nargs in (None, '?') and not again and not isinstance(action.const, str):
            assert same(words[0], getattr(recorded[0], action.dest)), f'{name} {words}'


TRAIN, VALIDATE = train_parser(), validate_parser()


@target('command lines of train.py', _given(TRAIN), 130)
def train(given: list[list[str]], folder: Path) -> None:
    recorded: list[argparse.Namespace] = []
    patches = [mock.patch('timm_debias.training.main.train', lambda config, args, text, machine: recorded.append(args))]
    _check(['train'], given, TRAIN, recorded, patches)


@target('command lines of validate.py', _given(VALIDATE), 80)
def validate(given: list[list[str]], folder: Path) -> None:
    recorded: list[argparse.Namespace] = []

    def run(config: Any, machine: Any) -> int:
        check_config(config)
        parts = [vars(part) for part in vars(config).values()]
        recorded.append(argparse.Namespace(**{name: value for part in parts for name, value in part.items()}))
        return 0

    (folder / 'model.pth').touch()
    _check(
        ['validate', '--checkpoint', str(folder / 'model.pth')],
        given,
        VALIDATE,
        recorded,
        [mock.patch('timm_debias.validation.main._run', run)],
    )
