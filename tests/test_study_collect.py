"""Where rows meet runs: what is taken from run folders and stored tables, and what is refused."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from timm_debias import DebiasError
from timm_debias.cli import main
from timm_debias.study.collect import (
    Collected,
    Row,
    check_stored,
    collect,
    format_csv,
    read_csv,
    read_measured,
    read_stored,
    store,
)
from timm_debias.study.config import read_study
from timm_debias.study.grid import Run, expand
from timm_debias.training.signals import Stopped

STUDY = {
    'name': 'tiny',
    'title': 'Tiny',
    'train': {'model': 'test_resnet', 'epochs': 1},
    'validate': {'benchmarks': 'folder'},
    'models': {'small': {}, 'large': {'batch_size': 8}},
    'methods': {'plain': {}, 'debiased': {'debias': True}},
    'seeds': [0, 1],
    'baselines': ['plain'],
    'measures': {'clean': 'folder_top1'},
}
ENTRY = {
    'protocol': 'top-1 among 2 classes', 'images': 9, 'fingerprint': 'f' * 64, 'subset': None, 'partial': False,
    'notes': [],
}  # fmt: skip
SECONDS = {'train': {'wall': 100.0, 'cpu': 40.0}, 'validate': {'wall': 10.0, 'cpu': 4.0}}


def study_file(folder: Path, **changes) -> Path:
    path = folder / 'study.yaml'
    path.write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
    return path


def write_run(folder: Path, run: Run, seconds=SECONDS, fingerprint: str = 'f' * 64, **state) -> None:
    """Write what a finished run leaves in a folder of runs."""
    folder = folder / run.name
    (folder / 'results').mkdir(parents=True)
    known = {'train': run.train, 'validate': run.validate, 'status': 'finished', 'seconds': seconds, 'versions': {}}
    (folder / 'run.json').write_text(json.dumps(known | state))
    (folder / 'summary.csv').write_text('epoch,eval_top1\n0,12.5\n')
    results = {'model': 'test_resnet', 'param_count': 0.1, 'img_size': 32, 'absent': {}, 'weights': 'a' * 64}
    entry = ENTRY | {'headline': {'top1': 50.0}, 'metrics': {}, 'skipped': [], 'fingerprint': fingerprint}
    (folder / 'results/results.json').write_text(json.dumps(results | {'benchmarks': {'folder': entry}}))


def store_runs(folder: Path, runs: list[Run], **changes) -> None:
    """Store runs as finished."""
    rows = [
        replace(Row(run.data, run.model, run.method, run.seed, 'finished', flags=run.flags), **changes) for run in runs
    ]
    rows = [replace(row, figures={'folder_top1': 40.0}) for row in rows]
    models = dict.fromkeys(run.model for run in runs)
    entries = [{'data': '', 'model': model, 'benchmark': 'folder', **ENTRY, 'skipped': 0} for model in models]
    store(Collected(rows, {'benchmarks': entries, 'versions': []}), folder)


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    return expand(read_study(study_file(tmp_path)))


@pytest.mark.parametrize(
    ('device', 'processes', 'train', 'validate'),
    [({}, 1, 40.0, 4.0), ({'processor': 'one'}, 2, 80.0, 8.0), ({'gpu': 'H100'}, 8, 800.0, 80.0)],
)
def test_time_of_a_run(runs, tmp_path, device, processes, train, validate):
    """CPU time, or the time for which GPUs were held."""
    seconds = {stage: spent | device for stage, spent in SECONDS.items()}
    write_run(tmp_path / 'runs', runs[0], seconds, processes=processes)
    row = collect(runs[:1], tmp_path / 'runs').rows[0]
    clock = 'gpu_seconds' if 'gpu' in device else 'seconds'
    found = {column: value for column, value in row.figures.items() if 'seconds' in column}
    assert found == {f'{clock}_train': train, f'{clock}_validate': validate}
    assert row.processes == processes


def test_runs_of_other_numbers_of_processes_are_not_compared(runs, tmp_path):
    """Two architectures may have theirs: nothing is compared between them."""
    write_run(tmp_path / 'runs', runs[0])  # As before the number was noted.
    write_run(tmp_path / 'runs', next(run for run in runs if run.model == 'large'), processes=4)
    assert {row.model: row.processes for row in collect(runs, tmp_path / 'runs').rows if row.figures} == {
        'small': 1, 'large': 4
    }  # fmt: skip
    write_run(tmp_path / 'runs', runs[1], processes=4)
    with pytest.raises(DebiasError, match=r'small\.debiased\.0 was trained in 4 processes and small\.plain\.0 in 1'):
        collect(runs, tmp_path / 'runs')


def test_stored_runs_of_another_number_of_processes(runs, tmp_path, capsys):
    store_runs(tmp_path, runs[:1], processes=8)
    stored = read_stored(tmp_path, runs)
    check_stored(stored, runs[1:], 8)
    check_stored(stored, [run for run in runs if run.model == 'large'], 4)
    with pytest.raises(DebiasError, match=r'small\.plain\.0, trained in 8 processes; give --nproc-per-node 8'):
        check_stored(stored, runs[1:], 4)
    words = ['--stored', str(tmp_path), '--output', str(tmp_path / 'out'), '--nproc-per-node', '4']
    assert main(['study', str(tmp_path / 'study.yaml'), *words]) == 2
    assert 'give --nproc-per-node 8 instead of 4' in capsys.readouterr().err


def test_tables_without_the_number_of_processes(runs, tmp_path):
    row = Row('', 'small', 'plain', 0, 'finished', flags='a', processes=1, figures={'folder_top1': 40.0})
    text = format_csv([row])
    assert text.splitlines()[0] == 'data,model,method,seed,status,error,weights,flags,processes,folder_top1'
    (tmp_path / 'old.csv').write_text(text.replace(',processes', '').replace(',1,40', ',40'))
    (tmp_path / 'new.csv').write_text(text)
    assert read_csv(tmp_path / 'old.csv') == read_csv(tmp_path / 'new.csv') == [row]


def test_a_table_with_a_run_twice(runs, tmp_path):
    """As two tables put together by hand: neither line may silently be the one that counts."""
    store_runs(tmp_path, runs)
    path = tmp_path / 'results.csv'
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([*lines, lines[1]]))
    with pytest.raises(DebiasError, match=r'results\.csv has small\.plain\.0 twice; take one of the two lines out'):
        read_csv(path)


@pytest.mark.parametrize('content', ['[]', '{', '{}'])
def test_what_is_no_measured_json(tmp_path, content):
    (tmp_path / 'measured.json').write_text(content)
    with pytest.raises(DebiasError, match=r'not the measured\.json of a study') as caught:
        read_measured(tmp_path / 'measured.json')
    assert 'remove it to measure again' not in str(caught.value)  # That is for results of validate.py.


@pytest.mark.parametrize('content', ['[]', '{', '{"status": 3}'])
def test_what_is_no_state_of_a_run(runs, tmp_path, content):
    write_run(tmp_path, runs[0])
    (tmp_path / runs[0].name / 'run.json').write_text(content)
    with pytest.raises(DebiasError, match=r'not the state of a run: remove the folder to run it again'):
        collect(runs, tmp_path)


def test_a_report_that_cannot_be_written(runs, tmp_path, capsys):
    store_runs(tmp_path, runs)
    (tmp_path / 'report/report.md').mkdir(parents=True)
    words = ['--report-only', '--stored', str(tmp_path), '--output', str(tmp_path)]
    assert main(['study', str(tmp_path / 'study.yaml'), *words]) == 2
    assert f'--report-dir {tmp_path / "report"} cannot be written: [Errno' in capsys.readouterr().err


def test_finished_runs_need_nothing(runs, tmp_path, capsys):
    """This machine may have neither their images nor their GPUs."""
    path = study_file(tmp_path)
    for run in runs[1:]:
        write_run(tmp_path / 'runs', run)
    words = ['study', str(path), '--output', str(tmp_path)]
    assert main(words) == 2
    assert f'{path}: {runs[0].name}: ' in capsys.readouterr().err
    write_run(tmp_path / 'runs', runs[0])
    assert main(words) == 0
    assert (tmp_path / 'report/report.md').is_file()


def test_a_mistyped_flag_is_named_before_runs_are_compared(runs, tmp_path, capsys):
    """They would be runs of other flags, to be removed."""
    for run in runs:
        write_run(tmp_path / 'runs', run)
    path = study_file(tmp_path, methods={'plain': {}, 'debiased': {'debais': True}})
    assert main(['study', str(path), '--output', str(tmp_path)]) == 2
    expected = f"{path}: small.debiased.0: train.py: unknown key 'debais'. Did you mean 'debias'"
    assert expected in capsys.readouterr().err


def test_runs_that_cannot_be_written(tmp_path, capsys):
    """A file lies where the folder of the first run is to be."""
    train = {'model': 'test_resnet', 'dataset': 'shapes_textures', 'num_classes': 8, 'device': 'cpu', 'epochs': 1}
    changes = {'validate': {'benchmarks': 'shapes_textures'}, 'measures': {'by shape': 'shapes_textures_shape'}}
    path = study_file(tmp_path, train=train, **changes)
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs/small.plain.0').touch()
    assert main(['study', str(path), '--output', str(tmp_path), '--runs', 'small.plain.0']) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f'--output {tmp_path}: the runs were stopped: [Errno' in error
    assert error.endswith('; the same command goes on with them')


def test_protocols_of_runs_that_were_not_taken(runs, tmp_path):
    """Stored with other flags: how they were measured says nothing of this study's runs."""
    large = [run for run in runs if run.model == 'large']
    store_runs(tmp_path, [runs[0], replace(large[0], train={})])
    stored = read_stored(tmp_path, runs)
    assert list(stored.rows) == ['small.plain.0']
    write_run(tmp_path / 'runs', large[0], fingerprint='other images')
    measured = collect(runs, tmp_path / 'runs', stored).measured['benchmarks']
    assert [(entry['model'], entry['fingerprint']) for entry in measured] == [
        ('small', 'f' * 64), ('large', 'other images')
    ]  # fmt: skip


def test_stored_results_are_not_lost(runs, tmp_path, capsys):
    """A new --output that has fewer runs than results.csv of the report."""
    report = tmp_path / 'report'
    store_runs(report, runs)
    before = (report / 'results.csv').read_bytes()
    words = ['study', str(tmp_path / 'study.yaml'), '--report-only', '--output', str(tmp_path / 'new')]
    words += ['--report-dir', str(report)]
    write_run(tmp_path / 'new/runs', runs[0])
    assert main(words) == 2
    message = capsys.readouterr().err
    assert f'has {len(runs) - 1} finished runs that this study has not, such as small.debiased.0' in message
    assert f'with --stored {report}' in message
    assert (report / 'results.csv').read_bytes() == before
    assert main([*words, '--stored', str(report)]) == 0
    rows = {row.name: row.figures['folder_top1'] for row in read_csv(report / 'results.csv')}
    assert rows == {run.name: 50.0 if run == runs[0] else 40.0 for run in runs}


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'seeds': [0]}, 'has small.plain.1, which is no run of the study'),
        ({'train': STUDY['train'] | {'epochs': 2}}, 'has small.plain.0, with other flags'),
        ({'checkpoint': 'best'}, 'has small.plain.0, with other flags'),
        ({}, None),
    ],
)
def test_results_that_the_study_file_does_not_describe(runs, tmp_path, capsys, changes, reason):
    store_runs(tmp_path / 'report', runs)
    words = ['study', str(study_file(tmp_path, **changes)), '--from-results', '--report-dir', str(tmp_path / 'report')]
    assert main(words) == (2 if reason else 0)
    assert reason is None or reason in capsys.readouterr().err


def test_a_study_that_a_signal_stops_exits_with_its_code(tmp_path, runs, monkeypatch, capsys):
    def stop(*words):
        raise Stopped(signal.SIGUSR1)

    monkeypatch.setattr('timm_debias.study.main._run', stop)
    assert main(['study', str(tmp_path / 'study.yaml'), '--output', str(tmp_path / 'out')]) == 128 + signal.SIGUSR1
    assert 'SIGUSR1: stopped; the same command goes on.' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_how_to_write_the_report_after_some_runs(runs, tmp_path, capsys, monkeypatch):
    """Without --report-only, the same command would train the others too."""
    monkeypatch.setattr('timm_debias.study.main._run', lambda *words: False)
    assert main(['study', str(tmp_path / 'study.yaml'), '--output', str(tmp_path / 'out'), '--runs', '*.0']) == 0
    assert 'the same command with --report-only instead of --runs and --shard' in capsys.readouterr().err
