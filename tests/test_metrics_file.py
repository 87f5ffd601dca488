"""metrics.jsonl: whole rows, in order, none twice, whatever a killed run has left."""

import json
import logging

import pytest

from timm_debias import DebiasError
from timm_debias.training import metrics_file
from timm_debias.training.metrics_file import MetricsFile

ROWS = [
    {'step': 1, 'epoch': 0, 'update': 0, 'loss': 2.5},
    {'step': 2, 'epoch': 0, 'update': 1, 'loss': 2.25},
    {'step': 2, 'epoch': 0, 'eval_top1': 50.0},
    {'step': 3, 'epoch': 1, 'update': 0, 'loss': 2.0},
    {'step': 4, 'epoch': 1, 'update': 1, 'loss': 1.5},
    {'step': 4, 'epoch': 1, 'eval_top1': 75.0},
]


@pytest.fixture
def path(tmp_path):
    MetricsFile(tmp_path / 'metrics.jsonl').append(ROWS)
    return tmp_path / 'metrics.jsonl'


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ('epoch', 'update', 'kept'),
    [(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 3), (1, 1, 4), (1, 2, 5), (2, 0, 6)],
)
def test_what_is_done_again_is_cut(path, epoch, update, kept):
    MetricsFile(path, epoch, update)
    assert rows(path) == ROWS[:kept]


def test_every_place_a_process_can_be_killed_at(path):
    """A write that a kill cuts anywhere: the run that goes on from before it ends in the same rows."""
    whole = path.read_bytes()
    begin = len(b''.join(whole.splitlines(keepends=True)[:3]))
    for length in range(begin, len(whole)):
        path.write_bytes(whole[:length])
        MetricsFile(path, 1, 0).append(ROWS[3:])
        assert path.read_bytes() == whole


def test_a_torn_line_of_before_the_checkpoint_is_cut(path):
    """Not a place that a kill leaves, a crash of the machine may; nothing is glued to it."""
    path.write_bytes(path.read_bytes()[:-3])
    MetricsFile(path, 2, 0).append([{'step': 5, 'epoch': 2, 'update': 0}])
    assert rows(path) == [*ROWS[:5], {'step': 5, 'epoch': 2, 'update': 0}]


@pytest.mark.parametrize('line', ['{"epoch": 0', 'null', '[1]', '{"step": 3}', '{"epoch": "x"}', '\x00\x00'])
def test_a_line_that_is_no_row_is_told(path, caplog, line):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(''.join([*lines[:2], f'{line}\n', *lines[2:]]))
    with caplog.at_level(logging.WARNING):
        MetricsFile(path, 2, 0)
    assert rows(path) == ROWS[:2]
    assert 'dropped' in caplog.text


def test_numbers(tmp_path):
    file = MetricsFile(tmp_path / 'new.jsonl')
    file.append([{'epoch': 0, 'update': 0, 'loss': float('nan'), 'lr': float('inf'), 'top1': 1 / 3, 'none': None}])
    assert rows(file.path) == [{'epoch': 0, 'update': 0, 'loss': None, 'lr': None, 'top1': 0.3333333, 'none': None}]


def test_a_link_is_not_followed(path, tmp_path):
    before = path.read_text()
    link = tmp_path / 'link.jsonl'
    link.symlink_to(path)
    with pytest.raises(DebiasError, match=r'link\.jsonl is a link'):
        MetricsFile(link)
    assert path.read_text() == before


def test_a_full_disk(path, monkeypatch):
    def full(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(metrics_file.os, 'fsync', full)
    with pytest.raises(DebiasError, match=r'metrics\.jsonl cannot be written: No space left'):
        MetricsFile(path, 9, 0)
