"""The manifest of a benchmark: what it was made of and how, so that it can be told from others and gone on with."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..corruptions import list_corruptions
from ..errors import DebiasError
from ..files import check_no_links, remove_leftovers, write_text
from ..schema import Check, checked, count, list_of, record, text
from ..untrusted import read_json

NAME = 'manifest.json'

Manifest = dict[str, Any]

_WHAT = 'a manifest of this command'


def claim(output: Path, manifest: Manifest) -> None:
    """Write the manifest of a benchmark that is about to be made, or check that `output` holds the same one.

    Raises:
        DebiasError: `output` holds another benchmark, with what differs, files that are no benchmark, or links to
            other folders.
    """
    path = output / NAME
    if path.is_file():
        differences = [*_differences(_read(path), manifest)]
        if differences and differences[0].startswith('kind '):
            del differences[1:]  # Of another kind, all else differs too.
        if differences:
            raise DebiasError(
                f'{path} belongs to another benchmark: {"; ".join(differences)}. Choose another --output, or make the '
                'rest as the first part was made'
            )
        check_no_links(output, '--output')
        remove_leftovers(output)  # Readers of image folders would take them for images.
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DebiasError(f'--output {output} exists and is no benchmark of this command; choose a new folder')
    _write(path, manifest | {'complete': False})


def finish(output: Path, manifest: Manifest) -> None:
    """Write the manifest of a complete benchmark."""
    _write(output / NAME, manifest | {'complete': True})


def read_complete(output: Path, kind: str) -> Manifest:
    """Return the manifest of a benchmark of a kind.

    Raises:
        DebiasError: no benchmark, one of another kind, one that was not finished, or a manifest that this command did
            not write.
    """
    path = output / NAME
    if not path.is_file():
        raise DebiasError(f'{output} has no {NAME}; expected a folder that make-benchmark {kind} made')
    manifest = _load(path)
    if manifest.get('kind') != kind:
        raise DebiasError(f'{output} was made by make-benchmark {manifest.get("kind")}, expected {kind}')
    if not manifest.get('complete'):
        raise DebiasError(f'{output} is not finished; repeat the call of make-benchmark that began it')
    return checked(manifest, _COMPLETE[kind], path, _WHAT)


def _size(value: Any, where: str) -> None:
    count(value, where)
    if value < 1:
        raise ValueError(f'{where}: expected at least 1')


def _corruption(value: Any, where: str) -> None:
    if value not in list_corruptions():  # It becomes part of paths.
        raise ValueError(f"{where}: '{value}' is no corruption")


_source = record({'classes': list_of(text)})
_COMPLETE: dict[str, Check] = {
    'stylized': record({'parameters': record({'img_size': _size}), 'source': _source}),
    'cue-conflict': record({'parameters': record({'img_size': _size}), 'source': _source}),
    'corrupted': record(
        {'parameters': record({'img_size': _size, 'corruptions': list_of(_corruption)}), 'source': _source}
    ),
}
"""What is read of each kind's manifest."""


def _write(path: Path, manifest: Manifest) -> None:
    write_text(path, json.dumps(manifest, indent=4, ensure_ascii=False) + '\n')


def _read(path: Path) -> Manifest:
    manifest = _load(path)
    manifest.pop('complete', None)
    return manifest


def _load(path: Path) -> Manifest:
    manifest = read_json(path, _WHAT)
    if not isinstance(manifest, dict):
        raise DebiasError(f'{path}: not {_WHAT}')
    return manifest


def _differences(there: Any, now: Any, place: str = '') -> Iterator[str]:
    if isinstance(there, dict) and isinstance(now, dict):
        for key in {**there, **now}:
            yield from _differences(there.get(key), now.get(key), f'{place} {key}'.strip())
    elif there != now:
        yield f'{place} was {_short(there)}, now {_short(now)}'


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f'{text[:57]}…'
