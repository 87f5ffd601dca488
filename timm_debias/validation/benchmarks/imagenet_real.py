"""ImageNet's validation set with the reassessed labels (ReaL)."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import torch

from ...errors import DebiasError
from ...schema import count, list_of
from ...untrusted import read_json
from ..scores import State, TopK
from .base import Benchmark, Contents, Part, Setting, Summary
from .classes import imagenet_classes
from .imagenet import summarize_top_k
from .layout import read_class_folders
from .registry import register_benchmark

_NUM_LABELS = 50_000


@register_benchmark
class ImageNetReal(Benchmark):
    """Several labels may be right for an image; images for which raters found none are left out."""

    name = 'imagenet-real'
    needs = ('imagenet',)
    layout = "that of imagenet; labels in real.json, timm's copy where missing"
    num_images = 46_837
    metric = 'top-1, top-5'
    source = 'Beyer et al., arXiv 2006.07159'

    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Return one part: the images that have labels."""
        labels, origin = _read_labels(setting.suite.data_root)
        listing = read_class_folders(
            roots['imagenet'], imagenet_classes(), _NUM_LABELS, self.name, setting.suite.allow_partial
        )
        by_file = {file: labels[_number(file, listing.root)] for file, _, _ in listing.files}
        labelled = listing.keep(lambda file, _: bool(by_file[file]))
        if not labelled.files:
            raise DebiasError(f'{self.name}: no image of {listing.root} has a label in {origin}')
        most = max(len(by_file[file]) for file, _, _ in labelled.files)
        targets = [by_file[file] + [-1] * (most - len(by_file[file])) for file, _, _ in labelled.files]
        part = Part(self.name, labelled.images(), torch.tensor(targets), TopK)
        return Contents([part], listing.partial, notes=[f'labels from {origin}'])

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        del setting
        return 'right where one of the ReaL labels is hit, images without labels left out'

    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return top-1 and top-5."""
        del measured
        return summarize_top_k(states[self.name])


def _read_labels(data_root: str) -> tuple[list[list[int]], str]:
    """Return the labels of each validation image, and where they come from."""
    path = Path(data_root) / 'real.json'
    if data_root and path.is_file():
        labels, origin = read_json(path, 'the ReaL labels'), str(path)
    else:
        shipped = files('timm.data').joinpath('_info/imagenet_real_labels.json')
        labels, origin = json.loads(shipped.read_text(encoding='utf-8')), "timm's copy of real.json"
    try:
        list_of(list_of(count), length=_NUM_LABELS)(labels, str(path))
    except ValueError as error:
        raise DebiasError(
            f'imagenet-real: {path} is not the ReaL labels, a list with a list of labels for each of 50,000 images '
            f'({error})'
        ) from error
    return labels, origin


def _number(file: str, root: Path) -> int:
    """Return the place of a validation image among the 50,000, from its name."""
    stem = file.rpartition('/')[2].partition('.')[0]
    number = stem.removeprefix('ILSVRC2012_val_')
    if number == stem or not number.isdecimal() or not 1 <= int(number) <= _NUM_LABELS:
        raise DebiasError(
            f'imagenet-real: {root / file} has not a name such as ILSVRC2012_val_00000001.JPEG; the ReaL labels go by '
            'the number in it'
        )
    return int(number) - 1
