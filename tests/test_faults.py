"""The fault campaign finds what it looks for, and finds nothing in the whole."""

import time
from pathlib import Path

import pytest
from faults import long_run
from faults.__main__ import Campaign, main
from faults.killing import count_calls
from faults.operations import Operation, half_written, operations, same_files


def test_whole_campaign_kills_often(tmp_path):
    """Some calls are never reached, where what is written before is kept: 64 of 72 kills happen."""
    assert sum(operation.moments + operation.calls for operation in operations(tmp_path)) >= 60


@pytest.mark.slow
def test_campaign(capsys):
    """Three kills of each kind, no difference, nothing half-written."""
    assert main(['--kills', '3']) == 0
    summary = capsys.readouterr().out.splitlines()[-1]
    faults, compared, differences = (int(part.split(': ')[1]) for part in summary.split(', '))
    assert faults >= 24
    assert compared == 10
    assert differences == 0


def campaign(folder: Path, write, **options) -> Campaign:
    """Return a campaign against `write(output)` instead of a command."""

    class Direct(Campaign):
        def _target(self, output):
            def target() -> int:
                output.mkdir(exist_ok=True)
                write(output)
                return 0

            return target

    options = {'moments': 0, 'calls': 6, 'places': (f'{__name__}:save',), **options}
    return Direct(Operation('test', lambda folder: [], same_files, **options), folder, seed=0)


def save(path: Path, text: str) -> None:
    for word in text.split():
        path.write_text(word)
        path.write_text(text)


def test_finds_half_written_files(tmp_path):
    """A writer that goes through half of its file every time."""
    tally = campaign(tmp_path, lambda output: save(output / 'a.json', '{"a": 1, "b": 2}')).run()
    assert tally.faults == 6
    assert any('half-written' in problem for problem in tally.problems)


def test_finds_differences(tmp_path):
    """A writer that does not write again what it finds, whole or not."""

    def write(output):
        if not (output / 'a').exists():
            save(output / 'a', 'one two three')

    tally = campaign(tmp_path, write).run()
    assert any('different' in problem for problem in tally.problems)


def test_kills_at_moments(tmp_path):
    def write(output):
        time.sleep(0.2)
        (output / 'done').write_text('x')

    tally = campaign(tmp_path, write, moments=2, calls=0).run()
    assert (tally.faults, tally.compared, tally.problems) == (2, 1, [])


def test_counts_calls(tmp_path):
    ended, calls = count_calls(lambda: save(tmp_path / 'x', 'a b') or 0, (f'{__name__}:save',), tmp_path / 'log')
    assert ended.code == 0
    assert calls > 10


def test_reads_what_it_checks(tmp_path):
    for name in ('a.json', 'a.csv', 'a.yaml', 'a.png', 'a.pth.tar', 'a.txt'):
        (tmp_path / name).write_bytes(b'' if name == 'a.txt' else b'{"a": 1\nb,c')
    (tmp_path / '.hidden.json').touch()
    assert len(list(half_written(tmp_path))) == 6


def test_long_run(tmp_path):
    """Twenty epochs of it; the thousand are a command."""
    measured = long_run.run(tmp_path, 20, 5)
    assert [used.epoch for used in measured] == [5, 10, 15, 20]
    assert {name: getattr(measured[1], name) == getattr(measured[-1], name) for name in ('open_files', 'files')} == {
        'open_files': True, 'files': True,
    }  # fmt: skip


def test_growth_is_seen():
    flat = [long_run.Usage(epoch, 500.0, 20, 3, 9) for epoch in range(4)]
    assert long_run.growth(flat) == []
    assert long_run.growth([*flat, long_run.Usage(5, 520.0, 21, 3, 10)]) == [
        'memory from 500 to 520 MB', 'open_files from 20 to 21', 'files from 9 to 10',
    ]  # fmt: skip
