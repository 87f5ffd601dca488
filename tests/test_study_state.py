"""The files that say how far a run is."""

import json

import pytest

from timm_debias import DebiasError
from timm_debias.study.state import read_state, read_times, write_state

FINISHED = {'status': 'finished', 'seconds': {'train': {'cpu': 3.5, 'wall': 4}}, 'versions': {'torch': '2.6.0'}}


def test_what_was_written_is_read(tmp_path):
    assert read_state(tmp_path) is None
    for state in ({'status': 'started', 'train': {'epochs': 3}}, FINISHED):
        write_state(tmp_path, state)
        assert read_state(tmp_path) == state == json.loads((tmp_path / 'run.json').read_text())


@pytest.mark.parametrize(
    'content', ['[]', '{', '{}', '{"status": 3}', '{"status": "finished"}', '{"status": "started", "train": 1}']
)
def test_what_is_no_state(tmp_path, content):
    (tmp_path / 'run.json').write_text(content)
    with pytest.raises(DebiasError, match=r'run\.json.* the state of a run: remove the folder to run it again'):
        read_state(tmp_path)


def test_no_times_yet(tmp_path):
    assert read_times(tmp_path / 'seconds.json') == {}


@pytest.mark.parametrize(
    'content',
    ['[]', '{', '{"train": 3}', '{"train": {}}', '{"train": {"cpu": "3", "wall": 3}}', '{"train": {"cpu": 3}}'],
)
def test_what_are_no_times(tmp_path, content):
    (tmp_path / 'seconds.json').write_text(content)
    with pytest.raises(DebiasError, match=r'seconds\.json.* the times of a run: remove the folder to run it again'):
        read_times(tmp_path / 'seconds.json')
