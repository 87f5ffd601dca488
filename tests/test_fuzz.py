"""The fuzzing campaign finds nothing, and finds what it looks for."""

import pytest
from fuzz.__main__ import fuzz, main
from fuzz.mutations import Evil
from fuzz.target import Target
from hypothesis import strategies as st

from timm_debias import DebiasError


@pytest.mark.slow
def test_campaign(capsys):
    """At least 500 inputs: none ends in a traceback, none is read as something else than another reader reads."""
    assert main(['--times', '1']) == 0
    summary = capsys.readouterr().out.splitlines()[-1].removeprefix('All: ')
    counts = {name: int(number) for name, number in (part.split(': ') for part in summary.split(', '))}
    assert counts['inputs'] >= 500
    assert counts['refused'] >= 100
    assert counts['accepted'] >= 100
    assert counts['tracebacks'] == counts['silent acceptances'] == 0


def run(read):
    return fuzz(Target('test', st.integers(0, 100), read, 60), 60, seed=0)


def test_counts():
    def read(value, folder):
        if value > 50:
            raise DebiasError(f'{value} is too large')

    tally = run(read)
    assert tally.refused > 0
    assert tally.accepted > 0
    assert (tally.inputs, tally.problems) == (tally.refused + tally.accepted, [])


def test_finds_tracebacks():
    tally = run(lambda value, folder: {}[value])
    assert (tally.tracebacks, tally.silent) == (1, 0)
    assert 'KeyError' in tally.problems[0]


def test_finds_errors_without_words():
    def read(value, folder):
        raise DebiasError(' ')

    assert run(read).tracebacks == 1


@pytest.mark.parametrize('place', ['../other', 'executed'])
def test_finds_what_is_written_elsewhere(place):
    def read(value, folder):
        if place == 'executed':
            function, arguments = Evil().__reduce__()
            function(*arguments)
        else:
            (folder / place).write_text('x')

    tally = run(read)
    assert (tally.tracebacks, tally.silent) == (0, 1)
