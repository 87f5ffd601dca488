"""What a run tells of its updates: rows and lines against means worked out here, and a clock that the test sets."""

import json
import logging
import re
from types import SimpleNamespace

import pytest
import torch
from processes import launch
from training_runs import finished, train_command

from timm_debias.cli import main
from timm_debias.machine import Machine
from timm_debias.progress import duration
from timm_debias.training import progress as progress_module
from timm_debias.training.loop import Run
from timm_debias.training.meters import Meters

NAMES = ('loss', 'loss_clean', 'loss_stylised', 'top1_clean', 'top1_stylised')


def batch(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value + number) for number, name in enumerate(NAMES)} | {'output': torch.zeros(2)}


@pytest.fixture
def run(monkeypatch):
    """A run of 2 epochs of 4 batches, 2 of which make an update; its clock, and the rows that it tells."""
    config = SimpleNamespace(model=SimpleNamespace(grad_accum_steps=2), faults=SimpleNamespace(on_nonfinite='skip'))
    optimizer = SimpleNamespace(param_groups=[{'lr': 0.1}, {'lr': 0.3}])
    run = Run(config, Machine(torch.device('cpu')), SimpleNamespace(), range(4), optimizer, num_epochs=2)
    run.rows = []
    run.trackers = SimpleNamespace(log_updates=run.rows.extend)
    run.clock = 0.0
    monkeypatch.setattr(progress_module.time, 'monotonic', lambda: run.clock)
    return run


def update(run, meters, number, values, counts):
    for value, count in zip(values, counts, strict=True):
        meters.update(batch(value), count)
        run.progress.add(batch(value), count)
    run.progress.end_update(number)


def test_rows(run):
    meters = Meters(run.machine)
    run.progress.begin(1, meters, 0)
    update(run, meters, 0, (1.0, 4.0), (3, 1))
    assert run.rows == []  # Nothing is read from the device before a line or a checkpoint is due.
    run.progress.flush()
    update(run, meters, 1, (5.0, 5.0), (2, 2))
    run.clock = 2.0
    run.progress.log(1)
    run.progress.flush()
    first, second = run.rows
    assert first == {'step': 3, 'epoch': 1, 'update': 0, 'images': 4, 'lr': pytest.approx(0.2)} | {
        name: pytest.approx(1.75 + number) for number, name in enumerate(NAMES)
    }
    assert (second['step'], second['images'], second['loss']) == (4, 4, 5.0)
    assert second['images_per_second'] == 4.0  # 8 clean images in 2 s: stylised ones do not count.


def test_the_last_row_waits_until_its_update_is_known_to_stay(run):
    """An update that is undone is marked, and what was added after it is added again."""
    meters = Meters(run.machine)
    run.progress.begin(0, meters, 0)
    update(run, meters, 0, (1.0, 1.0), (2, 2))
    run.clock = 1.0
    run.progress.log(0)
    assert run.rows == []
    run.progress.add(batch(9.0), 2)
    run.progress.undo()
    update(run, meters, 1, (3.0, 3.0), (2, 2))
    run.progress.flush()
    assert [(row['loss'], row.get('skipped')) for row in run.rows] == [(1.0, True), (3.0, None)]


def test_speed_is_that_since_the_line_before(run, caplog):
    meters = Meters(run.machine)
    run.progress.begin(0, meters, 0)
    with caplog.at_level(logging.INFO):
        for number, seconds in enumerate((4.0, 5.0)):
            update(run, meters, number, (1.0, 1.0), (8, 8))
            run.clock = seconds
            run.progress.log(number)
    run.progress.flush()
    assert [row['images_per_second'] for row in run.rows] == [4.0, 16.0]
    # 1 of 4 updates in 4 s leaves 12 s; 2 of 4 in 5 s leave 5.
    assert [record.message.split('left: ')[1] for record in caplog.records] == ['00:00:12', '00:00:05']


def test_time_left_has_the_validations(run, caplog):
    meters = Meters(run.machine)
    run.progress.begin(0, meters, 0)
    for number in range(2):
        update(run, meters, number, (1.0, 1.0), (8, 8))
    run.clock = 10.0
    run.progress.log(1)
    run.clock = 110.0  # 100 s of validation and saving.
    run.progress.begin(1, meters, 0)
    update(run, meters, 0, (1.0, 1.0), (8, 8))
    run.clock = 115.0
    with caplog.at_level(logging.INFO):
        run.progress.log(0)
    assert caplog.records[-1].message.endswith('left: 00:01:45')


@pytest.mark.parametrize(
    ('seconds', 'text'), [(0, '00:00:00'), (59.6, '00:01:00'), (86399, '23:59:59'), (86400 * 3 + 3661, '3 d 01:01:01')]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


LINE = re.compile(
    r'Train: 2 \[   4/5 \(100%\)\]  Loss: [\d.]+  clean: [\d.]+, [\d.]+ %  stylised: [\d.]+, [\d.]+ %  '
    r'LR: [\d.e+-]+  [\d.]+ images/s  stylizer: \d+ %  left: \d\d:\d\d:\d\d'
)


def test_of_a_debiased_run(training_images, tmp_path):
    """Through train.py: a row for each update and epoch, and a line that has no control characters."""
    ended = finished(train_command(training_images, tmp_path, '--debias', '--log-interval', '2'), tmp_path / 'log')
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert [(row['epoch'], row.get('update')) for row in rows] == [
        (epoch, update) for epoch in range(3) for update in (0, 1, 2, 3, 4, None)
    ]
    updates = [row for row in rows if 'update' in row]
    assert [row['step'] for row in updates] == list(range(1, 16))
    assert [row['update'] for row in updates[:5] if 'stylizer_share' in row] == [0, 2, 4]
    for row in updates:
        assert row['loss'] == pytest.approx((row['loss_clean'] + row['loss_stylised']) / 2, rel=1e-5)
        assert 0 < row.get('stylizer_share', 0.5) < 1
        assert row['images'] == 4
    for epoch in range(3):
        whole = next(row for row in rows if row['epoch'] == epoch and 'update' not in row)
        own = [row['loss'] for row in updates if row['epoch'] == epoch]
        assert whole['train_loss'] == pytest.approx(sum(own) / 5, rel=1e-5)
        assert 'eval_top1' in whole
    lines = [line for line in ended.err.splitlines() if line.startswith('Train:')]
    assert LINE.fullmatch(lines[-1]), lines[-1]


def test_of_several_processes(training_images, tmp_path):
    """Rows are means over the images of all processes."""
    flags = ['--epochs', '1', '--debias', '--debias-global-partners', '--model', 'test_vit']
    flags += ['--model-kwargs', 'img_size=32']
    for world_size in (1, 2):
        argv = train_command(training_images, tmp_path / str(world_size), *flags, '-b', str(4 // world_size))
        ended = launch(lambda argv=argv: main(argv), world_size, tmp_path / f'log{world_size}')
        assert [process.code for process in ended] == [0] * world_size, ended
    one, two = (
        [json.loads(line) for line in (tmp_path / name / 'run' / 'metrics.jsonl').read_text().splitlines()]
        for name in '12'
    )
    for first, second in zip(one, two, strict=True):
        assert first.keys() == second.keys()
        for name in {'step', 'images', 'lr', *NAMES} & first.keys():
            assert second[name] == pytest.approx(first[name], abs=1e-5), name
