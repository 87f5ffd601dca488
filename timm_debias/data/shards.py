"""Checks of tar files and webdataset shards: what a data set's own files say about where its images are."""

import re
from pathlib import Path
from typing import Any

from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from ..errors import DebiasError
from ..files import below
from ..schema import checked, list_of, mapping_of, record, text
from ..untrusted import read_json

_INFO = ('_info.json', 'info.json')
_ADDRESS = re.compile(r'(^|::)\s*(pipe:|[a-z][a-z0-9+.-]*://)', re.IGNORECASE)

_EXPECTED = 'the description of a webdataset'
_splits = record({}, {'splits': mapping_of(record({'filenames': list_of(text)}))})


def starts_process(value: object) -> bool:
    """Return whether a place of a data set is one that webdataset runs a command for: `pipe:` the one it names, and
    addresses a program that downloads."""
    return isinstance(value, str) and _ADDRESS.search(value) is not None


def check_shards(root: str | None) -> None:
    """Check what the info file of a folder of shards says.

    Raises:
        DebiasError: an info file that is damaged, or names shards outside the folder.
    """
    if root is None or starts_process(root):
        return
    path = next((Path(root, name) for name in _INFO if Path(root, name).is_file()), None)
    if path is None:
        return
    info = checked(read_json(path, _EXPECTED), _splits, path, _EXPECTED)
    for split in info.get('splits', {}).values():
        for name in split['filenames']:
            below(Path(root), name, str(path))


def check_names_in_tar(dataset: Any) -> None:
    """Raise `DebiasError` for an image of a tar file whose name leads out of it. Nothing is extracted in any case."""
    reader = getattr(dataset, 'reader', None)
    if not isinstance(reader, ReaderImageInTar):
        return
    for info, *_ in reader.samples:
        if info.path.startswith('/') or '..' in info.path.split('/'):
            raise DebiasError(f"{reader.root}: the name '{info.path}' leads out of the archive; pack the images anew")
