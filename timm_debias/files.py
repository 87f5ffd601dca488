"""Writing files so that a crash leaves the old file or the new one, never half of one."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import DebiasError

PARTIAL = '.partial'
"""In the names of temporary files and folders, so that those of killed processes are known."""

# Asking for it sets it, which must not happen while other threads make files.
_UMASK = os.umask(0)
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` when the block ends without an error.

    The temporary file keeps the suffix of `path`, so that libraries which choose a format by suffix work.
    Missing parent folders are made. On an error the temporary file is removed and `path` is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f'.{path.stem}-', suffix=f'{PARTIAL}{path.suffix}', dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: str | os.PathLike) -> None:
    """Wait until the names in `folder` are on the disk, where the system can tell."""
    if not hasattr(os, 'O_DIRECTORY'):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove from `folder`, and below, what killed processes have left of files that `atomic_path` was writing.

    No process must be writing there now.
    """
    for leftover in Path(folder).rglob(f'.*{PARTIAL}*'):
        if not leftover.is_dir():  # Those of folders are removed by what writes the folder.
            leftover.unlink(missing_ok=True)


def below(folder: Path, name: str, where: str) -> Path:
    """Return the path of a file or folder below `folder` that a file names.

    Args:
        folder: Where it has to be.
        name: Its path relative to `folder`.
        where: What names it, for errors.

    Raises:
        DebiasError: the name is empty, absolute, goes up, or is not one that every system has.
    """
    parts = name.split('/')
    if any(part in ('', '.', '..') for part in parts) or re.search(r'[\\:\0]', name):
        raise DebiasError(f"{where}: '{name}' leads out of {folder}; expected a path below it")
    return folder / name


def check_no_links(folder: Path, where: str) -> None:
    """Raise `DebiasError` where a folder below `folder` is a link, through which files would be written elsewhere.

    `folder` itself may be one. Files that are links are not followed: writing replaces the link.
    """
    for place, folders, _ in os.walk(folder):
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                raise DebiasError(
                    f'{where} {folder}: {os.path.join(place, name)} is a link to another folder; remove it'
                )


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def write_output(path: str | os.PathLike, text: str) -> None:
    """Write `text` to the file that `--output` names.

    Raises:
        DebiasError: it cannot be written; a file that was there is as it was.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise DebiasError(f'--output {path} cannot be written: {error.strerror or error}') from error


def check_output(path: str | os.PathLike, flag: str = '--output') -> Path:
    """Return the path of the folder that a flag names; makes nothing, so that it may come before any other check.

    Raises:
        DebiasError: the folder cannot be made or written to.
    """
    folder = Path(path)
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
    except OSError as error:
        raise DebiasError(f'{flag} {path}: {error.strerror or error}') from error
    if not there.is_dir():
        raise DebiasError(f'{flag} {path}: {there} is a file; name a folder')
    if not os.access(there, os.W_OK | os.X_OK):
        raise DebiasError(f'{flag} {path}: {there} cannot be written to')
    return folder
