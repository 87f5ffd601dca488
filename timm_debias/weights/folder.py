"""A released model as a folder: what timm reads as `local-dir:` and, once uploaded, as `hf-hub:`."""

import contextlib
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf

from ..errors import DebiasError
from ..files import PARTIAL
from ..hashing import hash_file
from ..untrusted import read_json
from ..weight_files import StateDict, load_safetensors

WEIGHTS = 'model.safetensors'
AUX_WEIGHTS = 'aux_bn.safetensors'
CONFIG = 'config.json'
CARD = 'README.md'
SUMS = 'SHA256SUMS'

_OF_OTHER_WEIGHTS = (
    'tag', 'license', 'description', 'origin_url', 'paper_name', 'paper_ids', 'notes', 'label_offset',
    'label_names', 'label_descriptions', 'test_input_size', 'test_pool_size', 'test_crop_pct', 'min_input_size',
)  # fmt: skip
"""What timm's `pretrained_cfg` of an architecture says of the weights that timm has for it."""


@dataclass(frozen=True)
class Release:
    """A model to write."""

    network: Any
    """The stock timm model, made by `timm.create_model`; gives the architecture and its arguments."""

    state: StateDict
    """Its weights."""

    data_config: Mapping[str, Any]
    """timm's data configuration: input_size, interpolation, crop_pct, mean, std."""

    about: Mapping[str, Any]
    """Entries of `pretrained_cfg` that tell of these weights: license, tag, …"""

    aux: StateDict = field(default_factory=dict)
    """Auxiliary batch norm, for a file of its own."""

    label_names: tuple[str, ...] = ()
    """Names of the classes, where known."""


def write_folder(
    folder: Path,
    release: Release,
    card: Callable[[Mapping[str, str]], str],
    extra: Mapping[str, str] | None = None,
    check: Callable[[Path], None] | None = None,
    overwrite: bool = False,
) -> None:
    """Write model.safetensors, config.json, aux_bn.safetensors where there is one, card and SHA256SUMS.

    The folder appears as a whole or not at all.

    Args:
        folder: Folder to make.
        release: What to write.
        card: Makes the model card from the SHA-256 of each other file.
        extra: Further text files.
        check: Looks at weights and config.json in a temporary folder; where it raises, nothing is left.
        overwrite: Replace a folder that is there.

    Raises:
        DebiasError: the folder holds something already, or cannot be written.
    """
    check_new(folder, overwrite)
    with _new_folder(folder) as temporary:
        _write_files(temporary, release, extra or {})
        if check is not None:
            check(temporary)
        sums = {path.name: hash_file(path) for path in sorted(temporary.iterdir())}
        (temporary / CARD).write_text(card(sums), encoding='utf-8')
        sums[CARD] = hash_file(temporary / CARD)
        lines = [f'{digest}  {file}\n' for file, digest in sorted(sums.items())]
        (temporary / SUMS).write_text(''.join(lines), encoding='utf-8')


def check_new(folder: Path, overwrite: bool = False) -> None:
    """Raise `DebiasError` where a folder to write holds something that must not be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / SUMS).is_file():
        raise DebiasError(f'{folder} exists and is no released model; choose another place')
    if not overwrite:
        raise DebiasError(f'{folder} holds a model already; choose another place, or give --overwrite')


def read_sums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 that each file of a released model must have, by file name.

    Raises:
        DebiasError: no released model.
    """
    if not folder.is_dir():
        raise DebiasError(f'{folder}: no such folder')
    try:
        lines = (folder / SUMS).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DebiasError(f'{folder}: no released model: {SUMS} cannot be read') from error
    matches = [re.fullmatch(r'([0-9a-f]{64}) [ *](\w[\w.+-]*)', line) for line in lines if line.strip()]
    sums = {match[2]: match[1] for match in matches if match is not None}
    if len(sums) != len(matches) or WEIGHTS not in sums:
        raise DebiasError(f'{folder}: {SUMS} is damaged; it has a line with SHA-256 and file name for each file')
    return sums


def check_folder(folder: Path) -> dict[str, Any]:
    """Check all files of a released model against its hashes and return its config.json.

    Raises:
        DebiasError: no released model, or a file that is missing or not what it was.
    """
    for name, digest in read_sums(folder).items():
        path = folder / name
        if not path.is_file():
            raise DebiasError(f'{path}: no such file, and {SUMS} names it')
        if hash_file(path) != digest:
            raise DebiasError(f'{path}: SHA-256 differs from {SUMS}: damaged or exchanged')
    config = read_json(folder / CONFIG, 'a configuration of timm')
    if not isinstance(config, dict):
        raise DebiasError(f'{folder / CONFIG}: not a configuration of timm')
    return config


def read_weights(folder: Path) -> StateDict:
    """Return the weights of a released model, checked against its hash.

    Raises:
        DebiasError: as `read_sums`; a missing file, or other bytes than the hash's.
    """
    return load_safetensors(folder / WEIGHTS, sha256=read_sums(folder)[WEIGHTS])


def copy_folder(source: Path, target: Path, overwrite: bool = False) -> None:
    """Copy the files of a released model that was checked to a new folder, which appears as a whole."""
    check_new(target, overwrite)
    with _new_folder(target) as temporary:
        for file in [*read_sums(source), SUMS]:
            shutil.copyfile(source / file, temporary / file)


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`, which takes its place when the block ends without an error."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for leftover in folder.parent.glob(f'.{glob.escape(folder.name)}-*{PARTIAL}'):
            shutil.rmtree(leftover)  # Of a process that was killed.
        with tempfile.TemporaryDirectory(PARTIAL, f'.{folder.name}-', folder.parent) as name:
            temporary = Path(name) / 'new'
            temporary.mkdir()
            yield temporary
            if folder.exists():
                os.replace(folder, Path(name) / 'old')
            os.replace(temporary, folder)
    except OSError as error:
        raise DebiasError(f'{folder} cannot be written: {error.strerror or error}') from error


def _write_files(folder: Path, release: Release, extra: Mapping[str, str]) -> None:
    for file, state in ((WEIGHTS, release.state), (AUX_WEIGHTS, release.aux)):
        if state:
            tensors = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
            save_file(tensors, folder / file, metadata={'format': 'pt'})
    network = release.network
    kept = {key: value for key, value in network.pretrained_cfg.items() if key not in _OF_OTHER_WEIGHTS}
    network.pretrained_cfg = {**kept, **release.about}
    labels = {'label_names': list(release.label_names)} if release.label_names else {}
    try:
        save_config_for_hf(network, str(folder / CONFIG), model_config=labels, data_config=dict(release.data_config))
    except ValueError as error:
        raise DebiasError(f'the model cannot be described in {CONFIG}: {error}') from error
    for file, text in extra.items():
        (folder / file).write_text(text, encoding='utf-8')
