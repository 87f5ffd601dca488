"""The files of a run's folder that say how far it is and what it took."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_text
from ..schema import Check, checked, count, mapping, mapping_of, number, record, text
from ..untrusted import read_json

STATE, SECONDS, UNFINISHED = 'run.json', 'seconds.json', 'unfinished.json'
"""The state of a run; the time of each stage that is done, and of one that a signal or an error ended."""

_EXPECTED_STATE = 'the state of a run: remove the folder to run it again'
_EXPECTED_TIMES = 'the times of a run: remove the folder to run it again'

_times = mapping_of(record({'cpu': number, 'wall': number}, {'gpu': text, 'processor': text}))
_known = {'train': mapping, 'validate': mapping, 'checkpoint': text, 'processes': count, 'error': text}
_begun = record({'status': text}, _known)
_finished = record({'status': text, 'seconds': _times, 'versions': mapping_of(text)}, _known)


def _state(value: Any, where: str) -> None:
    mapping(value, where)
    (_finished if value.get('status') == 'finished' else _begun)(value, where)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Return what a run's folder says of it, None where it says nothing.

    Raises:
        DebiasError: a file that does not say it.
    """
    return _read(folder / STATE, _state, _EXPECTED_STATE)


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write what `read_state` returns."""
    write_text(folder / STATE, json.dumps(state, indent=4, ensure_ascii=False) + '\n')


def read_times(path: Path) -> dict[str, dict[str, Any]]:
    """Return `cpu` and `wall` seconds by stage, and the `gpu` or `processor` of a stage that is done.

    Empty where there is no file yet.

    Raises:
        DebiasError: a file that does not say it.
    """
    return _read(path, _times, _EXPECTED_TIMES) or {}


def _read(path: Path, check: Check, expected: str) -> dict[str, Any] | None:
    return checked(read_json(path, expected), check, path, expected) if path.is_file() else None
