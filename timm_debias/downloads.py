"""Downloads: over HTTPS alone, of bounded size, gone on with where they broke off, and checked before they are used."""

import contextlib
import http.client
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import DebiasError
from .files import PARTIAL, sync_folder
from .hashing import hash_file
from .progress import Progress

if sys.platform != 'win32':
    import fcntl

MAX_BYTES = 4 << 30
"""Of a file whose size is not known beforehand; the weights of this project's largest network have a tenth of it."""

_BLOCK = 1 << 20
_SECONDS = 60
"""Without a byte for so long, a download has failed."""


def check_url(url: str) -> None:
    """Raise `DebiasError` for an address that is not one of HTTPS."""
    if not url.startswith('https://'):
        raise DebiasError(f'{url}: only addresses that begin with https:// are downloaded from')


def download(
    url: str, path: Path, check: Callable[[Path], object], sha256: str | None = None, max_bytes: int = MAX_BYTES
) -> None:
    """Download `url` to `path`, unless another process does; of a file whose hash is known, what was loaded before a
    break is kept beside it and not loaded again.

    Args:
        url: Address, HTTPS; so must be those that it leads on to.
        path: File to write; it appears as a whole or not at all.
        check: Reads the file before it takes its name, and raises `DebiasError` where it is not what it should be.
        sha256: Hash of the file in hex, where it is known.
        max_bytes: Size at which the download is given up.

    Raises:
        DebiasError: the download failed, or gave another file; the message is the reason alone.
    """
    check_url(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not path.is_file():
                _load(url, path, check, sha256, max_bytes)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, DebiasError):
            raise
        raise DebiasError(' '.join(str(getattr(error, 'reason', None) or error).split())) from error


def _load(url: str, path: Path, check: Callable[[Path], object], sha256: str | None, max_bytes: int) -> None:
    part = path.with_name(f'.{path.stem}-download{PARTIAL}{path.suffix}')
    if part.is_symlink() or sha256 is None:
        part.unlink(missing_ok=True)  # Nothing would tell whether its beginning is that of this file.
    _fetch(url, part, max_bytes, '' if sha256 is None else '; the same command goes on there')
    try:
        found = hash_file(part)
        if sha256 is not None and found != sha256:
            raise DebiasError(f'SHA-256 is {found} and should be {sha256}; damaged or exchanged')
        check(part)
    except DebiasError:
        part.unlink()  # Going on with it would give the same.
        raise
    os.replace(part, path)
    sync_folder(path.parent)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process downloads to `path`."""
    with open(path.with_name(f'.{path.name}.lock'), 'ab') as file:
        if sys.platform != 'win32':
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(url: str, part: Path, max_bytes: int, advice: str) -> None:
    """Load what `part` lacks of a file; `advice` ends the message where it broke off.

    Raises:
        DebiasError: it is too large, or its end is missing.
        OSError: the server cannot be reached, or says no.
    """
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={'Range': f'bytes={start}-'} if start else {})
    try:
        response = _open(request)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        part.unlink()  # It is as long as the file, or longer, and not known to be of it.
        response = _open(urllib.request.Request(url))
        start = 0
    with response, open(part, 'r+b' if part.exists() else 'wb') as file:
        start = start if response.status == http.client.PARTIAL_CONTENT else 0
        whole = _size(response, start)
        if whole is not None and whole > max_bytes:
            raise DebiasError(f'it has {whole:,} bytes, and more than {max_bytes:,} are not loaded')
        file.truncate(start)
        file.seek(start)
        progress = Progress(whole - start, 'bytes') if whole is not None and whole > start else None
        while block := response.read(_BLOCK):
            if file.tell() + len(block) > max_bytes:
                raise DebiasError(f'it has more than {max_bytes:,} bytes, which are not loaded')
            file.write(block)
            if progress is not None:
                progress.add(len(block))
        file.flush()
        os.fsync(file.fileno())
        if whole is not None and file.tell() != whole:
            raise DebiasError(f'it broke off after {file.tell():,} of {whole:,} bytes{advice}')


def _size(response: Any, start: int) -> int | None:
    """Return the size of the whole file in bytes, None where the server does not say."""
    with contextlib.suppress(TypeError, ValueError):
        return start + int(response.headers.get('Content-Length'))
    return None


class _StayWithHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: urllib.request.Request) -> Any:
    """Return the response to a request; certificates are checked."""
    handlers = [_StayWithHttps(), urllib.request.HTTPSHandler(context=ssl.create_default_context())]
    return urllib.request.build_opener(*handlers).open(request, timeout=_SECONDS)
