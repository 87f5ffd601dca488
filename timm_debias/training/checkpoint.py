"""Checkpoint files: written whole or not at all, and known to be intact when they are read.

A file is a dict as timm's train.py writes it, so that `timm.create_model(checkpoint_path=…)` loads it, plus one entry
`timm_debias` with what an exact resume needs and a SHA-256 of everything in the file. The format's version is in it;
files without the entry are of version 1 and have no hash.
"""

import argparse
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import DebiasError, is_of_the_machine, reason
from ..files import atomic_path, sync_folder
from ..weight_files import check_archive, check_content

_logger = logging.getLogger(__name__)

FORMAT = 2
"""Version of the format that is written; all up to it are read."""

ENTRY = 'timm_debias'


class DamagedError(DebiasError):
    """A file whose content is not that of a checkpoint, whatever the reason."""


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content`, whose entry `timm_debias` gets format and hash, so that a crash leaves the file that was there.

    The file and its folder are on the disk when this returns.

    Raises:
        DebiasError: it cannot be written, because the disk is full for example; what was there is as it was.
    """
    entry = {**content.get(ENTRY, {}), 'format': FORMAT}
    content = {**content, ENTRY: entry}
    entry['sha256'] = content_hash(content)
    try:
        with atomic_path(path) as temporary, open(temporary, 'wb') as file:
            torch.save(content, file)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter from the former.
        raise unwritable(path, error) from error


def unwritable(path: Path, error: BaseException) -> DebiasError:
    """Return what the user is told where a checkpoint, or another file of a run's folder, cannot be written."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    why = reason(error)[:200] if cause is None else cause.strerror or str(cause)
    return DebiasError(
        f'{path} cannot be written: {why}. What was saved before is intact: mend that, then go on with --resume auto'
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what is in a checkpoint, tensors on the CPU, its hash checked where it has one.

    Nothing but tensors and plain values is unpickled. A bare state dict comes back as {'state_dict': …}.

    Raises:
        DamagedError: no checkpoint, or a damaged one.
        DebiasError: no such file, one that cannot be read now, or one of a later version.
    """
    content = _load(path)
    entry = content.get(ENTRY)
    if entry is not None and content_hash(content) != entry.get('sha256'):
        raise DamagedError('damaged: its content does not match its hash')
    if 'state_dict' not in content and 'model' not in content:
        return {'state_dict': content}
    return content


def newest_intact(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return path and content of the checkpoint in `folder` that was written last, or None where there is none.

    Damaged ones that are newer are passed over, which the log says, and renamed to end in `.damaged`.

    Raises:
        DebiasError: there are checkpoints, and none is intact; or one that may be cannot be read, because it is of a
            later version or the disk is gone for the moment: an older one in its place would lose what it holds.
    """
    paths, damaged = _by_age(folder)
    for path in paths:
        try:
            content = read_checkpoint(path)
        except DamagedError as error:
            _logger.warning(f'{path}: {error}. The one before it is tried.')
            damaged.append(path)
            continue
        except DebiasError as error:
            raise DebiasError(f'{path}: {error}') from error
        for other in damaged:
            _set_aside(other)
        return path, content
    if damaged:
        names = ', '.join(path.name for path in damaged)
        raise DebiasError(f'--resume auto: no checkpoint in {folder} is intact ({names}); remove them to start anew')
    return None


def last_serial(folder: Path) -> int:
    """Return the largest number that a readable checkpoint in `folder` has, 0 where there is none."""
    return max((_age(_load(path, metadata_only=True))[0] for path in _by_age(folder)[0]), default=0)


def _by_age(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the checkpoints of a folder, newest first and each file once, and those that cannot be read at all."""
    ages: dict[Path, tuple[int, int, int]] = {}
    damaged: list[Path] = []
    seen: set[int] = set()
    # `last` before its hard links, so that messages name it.
    for path in sorted(_checkpoints(folder), key=lambda path: (path.name != 'last.pth.tar', path.name)):
        if path.stat().st_ino in seen:
            continue
        seen.add(path.stat().st_ino)
        try:
            ages[path] = _age(_load(path, metadata_only=True))
        except DamagedError as error:
            _logger.warning(f'{path}: {error}. It is passed over.')
            damaged.append(path)
        except DebiasError as error:
            raise DebiasError(f'{path}: {error}') from error
    return sorted(ages, key=ages.__getitem__, reverse=True), damaged


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob('[!.]*.pth.tar') if path.is_file()]


def _set_aside(damaged: Path) -> None:
    """Rename a damaged file under each of its names, so that none is taken for a checkpoint."""
    number = damaged.stat().st_ino
    for path in _checkpoints(damaged.parent):
        if path.stat().st_ino == number:
            path.rename(path.with_name(f'{path.name}.damaged'))


def _age(content: dict[str, Any]) -> tuple[int, int, int]:
    """Return what grows from one checkpoint of a run to the next."""
    entry = content.get(ENTRY)
    if entry is not None:
        return entry['serial'], entry['epoch'], entry['batch']
    epoch = content.get('epoch')  # Version 1, and timm's own.
    return 0, epoch + 1 if isinstance(epoch, int) else 0, 0


def _load(path: Path, metadata_only: bool = False) -> dict[str, Any]:
    try:
        check_archive(path, checksums=False)  # The hash is of all of it.
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm keeps its flags in one.
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=metadata_only)
        check_content(content, path.stat().st_size)
    except FileNotFoundError as error:
        raise DebiasError('no such file') from error
    except Exception as error:  # On garbage, the restricted unpickler raises almost anything.
        if isinstance(error, PermissionError) or is_of_the_machine(error):
            raise DebiasError(f'it cannot be read now ({reason(error)[:200]})') from error
        raise DamagedError(f'damaged, or not a checkpoint ({reason(error)[:200]})') from error
    if not isinstance(content, dict):
        raise DamagedError(f'not a checkpoint: it holds a {type(content).__name__}')
    entry = content.get(ENTRY)
    if entry is None:
        return content
    numbers = ('format', 'serial', 'epoch', 'batch')
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), int) for name in numbers):
        raise DamagedError(f"damaged: its entry '{ENTRY}' is not one that timm-debias writes")
    if entry['format'] > FORMAT:
        raise DebiasError(
            f'written by a later timm-debias (format {entry["format"]}; known are those up to {FORMAT}): update it, or '
            'move the file away'
        )
    return content


def content_hash(content: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, over names, types and values of everything in a checkpoint but the hash itself."""
    digest = hashlib.sha256()
    entry = {key: value for key, value in content[ENTRY].items() if key != 'sha256'}
    _hash_into(digest, {**content, ENTRY: entry})
    return digest.hexdigest()


def _hash_into(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f'{value.dtype} {tuple(value.shape)}\n'.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, argparse.Namespace):
        _hash_into(digest, vars(value))
    elif isinstance(value, Mapping):
        digest.update(f'mapping {len(value)}\n'.encode())
        for key, item in value.items():
            digest.update(f'{key!r}\n'.encode())
            _hash_into(digest, item)
    elif isinstance(value, (list, tuple)):
        digest.update(f'sequence {len(value)}\n'.encode())
        for item in value:
            _hash_into(digest, item)
    else:
        digest.update(f'{value!r}\n'.encode())
