"""The console script and the two scripts at the root."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import timm_debias
from timm_debias import DebiasError, cli

ROOT = Path(timm_debias.__file__).parents[1]


@pytest.mark.parametrize('command', cli.COMMANDS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, '--help'])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    flags = re.findall(r'^  (?:-\w[^,]*, )?(--[\w-]+)', text, re.MULTILINE)
    assert len(flags) > 1
    # Every flag says what it does.
    described = re.findall(r'^  -.*?(?=^  -|^\S|\Z)', text, re.MULTILINE | re.DOTALL)
    assert all(len(entry.split()) > 2 for entry in described)


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(['--version'])
    assert timm_debias.__version__ in capsys.readouterr().out


def test_unknown_command(capsys):
    assert cli.main(['trian']) == 2
    assert capsys.readouterr().err == "timm-debias: error: unknown command 'trian'. Did you mean 'train'?\n"


def test_mistakes_are_one_line_and_exit_code_2(monkeypatch, capsys):
    def fail(argv):
        raise DebiasError('no such thing')

    monkeypatch.setattr('timm_debias.training.main.main', fail)
    assert cli.main(['train']) == 2
    assert capsys.readouterr().err == 'timm-debias train: error: no such thing\n'


def test_interrupted_while_importing(monkeypatch, capsys):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr('importlib.import_module', interrupt)
    assert cli.run('train') == 130
    assert capsys.readouterr().err == 'timm-debias train: interrupted\n'


@pytest.mark.parametrize('lines', [1, 10_000])  # Less and more than Python keeps back.
def test_output_that_nobody_reads_any_more(monkeypatch, capsys, lines):
    """As where `| head` has ended."""
    reading, writing = os.pipe()
    os.close(reading)

    def write(argv):
        for number in range(lines):
            print(number)
        return 0

    with open(writing, 'w') as closed:
        monkeypatch.setattr('timm_debias.training.main.main', write)
        monkeypatch.setattr('sys.stdout', closed)
        assert cli.main(['train']) == 141
    assert capsys.readouterr().err == ''


def test_broken_pipes_of_other_kinds_are_raised(monkeypatch):
    def fail(argv):
        raise BrokenPipeError('of a worker')

    monkeypatch.setattr('timm_debias.training.main.main', fail)
    with pytest.raises(BrokenPipeError, match='of a worker'):
        cli.main(['train'])


@pytest.mark.parametrize('script', ['train.py', 'validate.py'])
def test_scripts_at_the_root(script):
    done = subprocess.run(
        [sys.executable, str(ROOT / script), '--no-such-flag'], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr
    assert done.stderr.count('\n') == 1
    assert '--no-such-flag' in done.stderr
