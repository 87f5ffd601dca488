"""The zoo: where the weights of released models are, found offline, and checked by hash."""

import os
from pathlib import Path

from huggingface_hub import hf_hub_download

from ..downloads import download
from ..errors import DebiasError, reason
from ..hashing import hash_file
from ..weight_files import StateDict, load_safetensors
from .folder import SUMS, WEIGHTS, read_weights
from .manifest import MANIFEST, PAGE, Entry
from .packed import load_packed

SHIPPED = MANIFEST.with_name('shipped')
"""Packed weights in this package."""


def home() -> Path:
    """Return the zoo's folder: `TIMM_DEBIAS_HOME`, or timm_debias in the user's cache."""
    cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(os.environ.get('TIMM_DEBIAS_HOME') or Path(cache) / 'timm_debias').expanduser()


def folder_of(entry: Entry) -> Path:
    """Return the folder in the zoo for the weights of a model."""
    return home() / entry.name


def source_of(entry: Entry) -> dict[str, str]:
    """Return where the weights of a model are, as timm's `pretrained_cfg` says it; empty where they are nowhere."""
    if entry.packed:
        return {'file': str(SHIPPED / entry.packed)}
    if (folder_of(entry) / WEIGHTS).is_file():
        return {'file': str(folder_of(entry) / WEIGHTS)}
    return {key: value for key, value in (('url', entry.url), ('hf_hub_id', entry.hf_hub_id)) if value}


def load_weights(entry: Entry) -> StateDict:
    """Return the weights of a released model, downloaded where the manifest says from where.

    Raises:
        DebiasError: there are none, in words that say which file is needed and how to add it; they cannot be
            downloaded; or their hash is another.
    """
    folder = folder_of(entry)
    try:
        if entry.packed:
            return _load_packed(entry)
        if not (entry.url or entry.hf_hub_id):
            if not (folder / SUMS).is_file():
                raise DebiasError(_missing(entry))
            return read_weights(folder)
        path = folder / WEIGHTS
        if not path.is_file() and entry.hf_hub_id:
            path = _from_hub(entry.hf_hub_id)
        elif not path.is_file():
            _download(str(entry.url), entry.sha256, path)
        return load_safetensors(path, entry.sha256)
    except DebiasError as error:
        raise DebiasError(f'{entry.name}: {error}') from error


def _missing(entry: Entry) -> str:
    return (
        f'no weights in {folder_of(entry)}. They come from the .pth.tar file that the authors offer as '
        f'"{entry.offered_as}" under "Model Zoo" in {PAGE}; import it by: '
        f'timm-debias weights add FILE --name {entry.name}'
    )


def _load_packed(entry: Entry) -> StateDict:
    path = SHIPPED / str(entry.packed)
    if not path.is_file() or hash_file(path) != entry.sha256:
        raise DebiasError(f'{path} is missing or damaged (SHA-256); install timm_debias anew')
    return load_packed(path)


def _download(url: str, sha256: str | None, path: Path) -> None:
    try:
        download(url, path, check=load_safetensors, sha256=sha256)
    except DebiasError as error:
        raise DebiasError(f'{url} cannot be downloaded ({error}); without network, put the file at {path}') from error


def _from_hub(repository: str) -> Path:
    try:
        return Path(hf_hub_download(repository, WEIGHTS))
    except Exception as error:  # The hub's client raises almost anything; all of it is about this file.
        why = reason(error)[:200]
        raise DebiasError(f'{WEIGHTS} of {repository} cannot be downloaded from the hub ({why})') from error
