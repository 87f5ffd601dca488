"""Results of a run on the disk: each part as soon as it is measured, the whole at the end."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..errors import DebiasError
from ..files import below, check_no_links, remove_leftovers, write_text
from ..schema import Check, checked
from ..untrusted import read_json as read_any_json
from .results_schema import check_models, check_part, check_results

Identity = Mapping[str, Any]
"""What a result depends on, as JSON values."""

_RESULT = 'a result of validate.py --benchmarks; remove it to measure again'


class PartResults:
    """The results of parts, kept in a folder so that an interrupted run can go on.

    Args:
        folder: Holds run.json and a file for each part; made where missing. None keeps nothing.
        identity: What all results of the folder depend on: model, weights, settings.
        resume: Go on with a folder that has results.

    Raises:
        DebiasError: a folder that has results, without `resume`, or with another identity; or one in which links
            lead to other places.
    """

    def __init__(self, folder: Path | None, identity: Identity, resume: bool) -> None:
        self._folder = folder
        if folder is None:
            return
        check_no_links(folder, '--results-dir')
        remove_leftovers(folder)
        path = folder / 'run.json'
        if not has_parts(folder):
            write_json(path, identity)
        elif resume:
            _check_same(path, read_json(path), identity)
        else:
            raise DebiasError(
                f'--results-dir {folder} holds results already; give --resume to go on with them, or another folder'
            )

    def load(self, name: str, identity: Identity) -> dict[str, Any] | None:
        """Return the result of a part that was measured before, None where it was not.

        Raises:
            DebiasError: it was measured on other data, or by another protocol.
        """
        path = self._path(name)
        if path is None or not path.exists():
            return None
        stored = _checked(path, read_json(path), check_part)
        _check_same(path, stored['identity'], identity)
        return stored['result']

    def save(self, name: str, identity: Identity, result: dict[str, Any]) -> dict[str, Any]:
        """Store the result of a part, and return it as `load` would."""
        text = json.dumps({'identity': identity, 'result': result})
        path = self._path(name)
        if path is not None:
            write_result(path, text + '\n')
        return json.loads(text)['result']

    def others(self, names: Collection[str]) -> list[str]:
        """Return the stored parts that are none of `names`."""
        return [name for name in _stored(self._folder) if name not in names] if self._folder is not None else []

    def _path(self, name: str) -> Path | None:
        return below(self._folder / 'parts', f'{name}.json', 'part') if self._folder is not None else None


def has_parts(folder: Path) -> bool:
    """Return whether a results folder holds the result of a part."""
    return bool(_stored(folder))


def _stored(folder: Path) -> list[str]:
    """Return the names of the parts in a results folder, in the order of the numbers in them."""
    parts = folder / 'parts'
    paths = parts.glob('**/[!.]*.json')  # A file that a killed run was writing begins with a dot.
    return sorted((path.relative_to(parts).with_suffix('').as_posix() for path in paths), key=_by_number)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        DebiasError: a file that cannot be read or holds no JSON object.
    """
    value = _read(path)
    if not isinstance(value, dict):
        raise DebiasError(f'{path}: not {_RESULT}')
    return value


def read_folders(folder: Path) -> list[Path]:
    """Return the folders of the models that `--models` measured below a results folder; none for that of one model.

    Raises:
        DebiasError: results.json cannot be read, or names a folder elsewhere.
    """
    path = folder / 'results.json'
    models = _read(path) if path.is_file() else {}
    if not isinstance(models, list):
        return []
    names = [model['folder'] for model in _checked(path, models, check_models) if 'error' not in model]
    return [below(folder, name, str(path)) for name in names]


def _read(path: Path) -> Any:
    return read_any_json(path, _RESULT)


def _checked(path: Path, value: Any, check: Check) -> Any:
    return checked(value, check, path, _RESULT)


def read_results(folder: Path) -> dict[str, Any]:
    """Return results.json of a results folder.

    Raises:
        DebiasError: no folder of `validate.py --benchmarks … --results-dir`, or that of a run that was interrupted.
    """
    if not folder.is_dir():
        raise DebiasError(f'{folder}: no such folder')
    if not (folder / 'results.json').is_file():
        if (folder / 'run.json').is_file():
            raise DebiasError(f'{folder} holds the results of an interrupted run; finish it with validate.py --resume')
        if any(folder.glob('results-*-of-*.json')):
            raise DebiasError(
                f'{folder} holds shards of --models; the same command with --resume, without --shard, writes one table'
            )
        raise DebiasError(f'{folder} is no results folder: validate.py --benchmarks … --results-dir writes one')
    if models := read_folders(folder):
        raise DebiasError(f'{folder} holds the results of many models; give one of its folders, such as {models[0]}')
    return _checked(folder / 'results.json', read_json(folder / 'results.json'), check_results)


def read_parts(folder: Path, benchmark: str) -> dict[str, dict[str, Any]]:
    """Return `identity` and `result` of each measured part of a benchmark, by name, in the order of the numbers.

    Raises:
        DebiasError: the name leads elsewhere, or a file is not that of a part.
    """
    below(folder, benchmark, 'benchmark')
    names = [name for name in _stored(folder) if name.partition('/')[0] == benchmark]
    paths = {name: folder / 'parts' / f'{name}.json' for name in names}
    return {name: _checked(path, read_json(path), check_part) for name, path in paths.items()}


def _by_number(name: str) -> list[tuple[str, float]]:
    """Return a key that sorts eps4 before eps16."""
    words = re.findall(r'([^\d]*)(\d+(?:\.\d+)?)?', name)
    return [(text, float(number or 0)) for text, number in words]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, atomically."""
    write_result(path, json.dumps(value, indent=4, ensure_ascii=False) + '\n')


def write_result(path: Path, text: str) -> None:
    """Write a file of results, atomically.

    Raises:
        DebiasError: the disk is full or the folder cannot be written; a file that was there is as it was.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise DebiasError(
            f'{path} cannot be written: {error.strerror or error}; what was stored before is intact, and --resume goes '
            'on with it'
        ) from error


def _check_same(path: Path, stored: Identity, wanted: Identity) -> None:
    different = [
        f'{key} was {stored.get(key)!r} and is {wanted.get(key)!r}'
        for key in {**stored, **wanted}
        if stored.get(key) != wanted.get(key)
    ]
    if different:
        raise DebiasError(
            f'{path} is of another run: {"; ".join(different)}; measure as before, or into another --results-dir'
        )
