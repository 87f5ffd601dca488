"""The manifest: which released models there are, what they are, and where their weights come from."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..data.shapes_textures import CLASSES
from ..downloads import check_url
from ..errors import DebiasError, did_you_mean

MANIFEST = Path(__file__).with_name('manifest.yaml')
PAGE = 'https://github.com/LiYingwei/ShapeTextureDebiasedTraining'
"""README of the authors, with the links to the official checkpoints under "Model Zoo"."""

PAPER = 'arXiv:2010.05981'

DATA: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # The reference evaluates so: shorter side to 256, bilinear, centre crop of 224.
        'in1k': dict(num_classes=1000, input_size=(3, 224, 224), crop_pct=0.875, interpolation='bilinear'),
        # Drawn at the size of the input: nothing to crop.
        'shapes_textures': dict(num_classes=8, input_size=(3, 64, 64), crop_pct=1.0, interpolation='bilinear'),
    }
)
"""Number of classes and preprocessing of the data sets that models of the manifest were trained on."""


@dataclass(frozen=True)
class Entry:
    """A released model."""

    name: str
    """Name with tag, for `timm.create_model`."""

    architecture: str
    """timm's name of the architecture."""

    data: str
    """Data set of the training, a key of `DATA`."""

    license: str
    """Licence of the weights, as the Hugging Face hub writes it."""

    packed: str | None = None
    url: str | None = None
    hf_hub_id: str | None = None
    sha256: str | None = None
    offered_as: str | None = None
    link: str | None = None
    top1: float | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return DATA[self.data]['num_classes']

    @property
    def data_config(self) -> dict[str, Any]:
        """timm's data configuration: input_size, crop_pct, interpolation, mean, std."""
        config = {key: value for key, value in DATA[self.data].items() if key != 'num_classes'}
        return {**config, 'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD}

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes, where the data set is embedded."""
        return CLASSES if self.data == 'shapes_textures' else ()

    @property
    def about(self) -> dict[str, Any]:
        """What timm's `pretrained_cfg` says of the model besides its input."""
        official = {'origin_url': PAGE} if self.offered_as else {}
        return {'tag': self.name.partition('.')[2], 'license': self.license, 'paper_ids': PAPER, **official}


def entries() -> Mapping[str, Entry]:
    """Return the entries of the manifest by name, in its order."""
    return _read(MANIFEST)


def get_entry(name: str) -> Entry:
    """Return the entry of a name; a name without tag is the first of its architecture.

    Raises:
        DebiasError: no such name.
    """
    known = entries()
    found = known.get(name) or next((entry for key, entry in known.items() if key.partition('.')[0] == name), None)
    if found is None:
        names = {*known, *(key.partition('.')[0] for key in known)}
        raise DebiasError(f"no released model is named '{name}'. {did_you_mean(name, names)}")
    return found


@functools.cache
def _read(path: Path) -> Mapping[str, Entry]:
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    return MappingProxyType({name: _entry(path, name, values) for name, values in content.items()})


def _entry(path: Path, name: str, values: Mapping[str, Any]) -> Entry:
    known = [field.name for field in fields(Entry)]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise DebiasError(f"{path}: {name}: unknown key '{unknown[0]}'. {did_you_mean(unknown[0], known)}")
    entry = Entry(name, **values)
    sources = [key for key in ('packed', 'url', 'hf_hub_id') if getattr(entry, key)]
    if len(sources) > 1:
        raise DebiasError(f'{path}: {name}: {" and ".join(sources)}; one place of the weights is enough')
    if not sources and not entry.offered_as:
        raise DebiasError(f'{path}: {name}: no place of the weights: packed, url, hf_hub_id or offered_as')
    if entry.url:
        check_url(entry.url)
    if sources and not re.fullmatch('[0-9a-f]{64}', str(entry.sha256)):
        raise DebiasError(f"{path}: {name}: {sources[0]} needs sha256: '…', the hash of the file in hex, in quotes")
    return entry
