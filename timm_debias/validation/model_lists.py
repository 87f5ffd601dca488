"""Which models `--models` names, and the share of them that `--shard` takes."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from timm.models import get_pretrained_cfg, list_models
from timm.utils import natural_key

from ..checks import is_known_model
from ..errors import DebiasError, did_you_mean

_SUFFIXES = ('.pth.tar', '.pth', '.pt', '.safetensors', '.bin')


@dataclass(frozen=True)
class Entry:
    """A model to measure."""

    model: str
    """timm's name of it."""

    checkpoint: str = ''
    """Path to its weights; timm's pretrained ones where empty."""


def list_entries(models: str, architecture: str, num_classes: Collection[int], flag: str = '--models') -> list[Entry]:
    """Return the models that `--models` names, each once, in a fixed order.

    Args:
        models: A text file with a model, or a model, a comma and a checkpoint, on each line; a folder of checkpoints;
            a wildcard for names of pretrained models; or all.
        architecture: The model whose checkpoints lie in a folder.
        num_classes: Of pretrained models found by name, only those of such numbers of classes are taken; all where
            it is empty.
        flag: The flag that names them.

    Raises:
        DebiasError: nothing is found.
    """
    path = Path(models)
    if models != 'all' and path.is_dir():
        files = [file for file in path.iterdir() if file.name.endswith(_SUFFIXES) and file.is_file()]
        entries = [Entry(architecture, str(file)) for file in sorted(files, key=lambda file: natural_key(file.name))]
        expected = f'checkpoints ({", ".join(_SUFFIXES)})'
    elif models != 'all' and path.is_file():
        entries = _read_list(path, flag)
        if entries and not any(is_known_model(entry.model) for entry in entries):
            raise DebiasError(f"{flag} {models}: no line names a model of timm; the first is '{entries[0].model[:80]}'")
        expected = 'lines of the form "model" or "model,checkpoint"'
    else:
        found = list_models('' if models == 'all' else models, pretrained=True)
        if not found:
            hint = did_you_mean(models, list_models())
            raise DebiasError(f'{flag} {models}: no file, no folder and no pretrained model of this name. {hint}')
        entries = [Entry(name) for name in found if not num_classes or _classes(name) in num_classes]
        expected = f'pretrained models of {" or ".join(f"{number:,}" for number in sorted(num_classes))} classes'
    if not entries:
        raise DebiasError(f'{flag} {models}: expected {expected}, found none')
    return list(dict.fromkeys(entries))


def folder_names(entries: Collection[Entry]) -> dict[Entry, str]:
    """Return a folder name for each model; it does not depend on the order, and hardly on the other models."""
    plain = {entry: _plain_name(entry) for entry in entries}
    uses = Counter(plain.values())
    return {
        entry: name if uses[name] == 1 else f'{name}-{hashlib.sha256(repr(entry).encode()).hexdigest()[:8]}'
        for entry, name in plain.items()
    }


def parse_shard(shard: str) -> tuple[int, int]:
    """Return i and n of `--shard i/n`.

    Raises:
        DebiasError: other than two numbers with 1 ≤ i ≤ n.
    """
    match = re.fullmatch(r'(\d+)/(\d+)', shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise DebiasError(f"--shard '{shard}': expected i/n with i from 1 to n, such as 1/4")
    return int(match[1]), int(match[2])


def _read_list(path: Path, flag: str) -> list[Entry]:
    try:
        lines = [line.strip() for line in path.read_text(encoding='utf-8').splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DebiasError(f'{flag} {path}: not a text file with a model on each line ({error})') from error
    pairs = [line.partition(',') for line in lines if line and not line.startswith('#')]
    return [Entry(model.strip(), checkpoint.strip()) for model, _, checkpoint in pairs]


def _classes(name: str) -> int | None:
    pretrained = get_pretrained_cfg(name)
    return None if pretrained is None else pretrained.num_classes


def _plain_name(entry: Entry) -> str:
    file = Path(entry.checkpoint).name
    stem = next((file.removesuffix(suffix) for suffix in _SUFFIXES if file.endswith(suffix)), file)
    return re.sub(r'[^\w.+-]+|^\.+', '_', f'{entry.model}-{stem}' if stem else entry.model)
