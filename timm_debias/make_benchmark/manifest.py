"""The manifest of a benchmark: what it was made of and how, so that it can be told from others and gone on with."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DebiasError
from ..files import remove_leftovers, write_text

NAME = 'manifest.json'

Manifest = dict[str, Any]


def claim(output: Path, manifest: Manifest) -> None:
    """Write the manifest of a benchmark that is about to be made, or check that `output` holds the same one.

    Raises:
        DebiasError: `output` holds another benchmark, with what differs, or files that are no benchmark.
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
        DebiasError: no benchmark, one of another kind, or one that was not finished.
    """
    if not (output / NAME).is_file():
        raise DebiasError(f'{output} has no {NAME}; expected a folder that make-benchmark {kind} made')
    manifest = _load(output / NAME)
    if manifest.get('kind') != kind:
        raise DebiasError(f'{output} was made by make-benchmark {manifest.get("kind")}, expected {kind}')
    if not manifest.get('complete'):
        raise DebiasError(f'{output} is not finished; repeat the call of make-benchmark that began it')
    return manifest


def _write(path: Path, manifest: Manifest) -> None:
    write_text(path, json.dumps(manifest, indent=4, ensure_ascii=False) + '\n')


def _read(path: Path) -> Manifest:
    manifest = _load(path)
    manifest.pop('complete', None)
    return manifest


def _load(path: Path) -> Manifest:
    try:
        manifest = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise DebiasError(f'{path}: damaged, or not a manifest of this command ({error})') from error
    if not isinstance(manifest, dict):
        raise DebiasError(f'{path}: not a manifest of this command')
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
