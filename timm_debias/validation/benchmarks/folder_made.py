"""What `timm-debias make-benchmark` makes of class folders of one's own, measured on the files as they are."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from ...corruptions import MAIN
from ...errors import DebiasError
from ...make_benchmark.manifest import read_complete
from ...metrics import SEVERITIES, mean_error
from ..scores import ClassAccuracy, ConflictDecisions, State, TopK, share
from .base import Benchmark, Contents, Part, Setting, Summary
from .cue_conflict import summarize_conflict
from .folder import SOURCE, summarize_classes
from .layout import (
    FolderImages,
    check_order,
    check_sizes,
    list_images,
    read_own_folders,
)
from .registry import register_benchmark
from .subset import SubsetReader


class MadeBenchmark(Benchmark):
    """A folder that make-benchmark made."""

    num_images = None
    source = SOURCE
    num_classes = None
    kind: ClassVar[str]

    def read(self, roots: Mapping[str, Path]) -> tuple[Path, dict[str, Any], int]:
        """Return the folder, its manifest and the size of its images."""
        root = roots[self.name]
        try:
            manifest = read_complete(root, self.kind)
        except DebiasError as error:
            raise DebiasError(f'{self.name}: {error}') from error
        return root, manifest, int(manifest['parameters']['img_size'])


@register_benchmark
class FolderC(MadeBenchmark):
    """Corrupted images, ImageNet-C-style."""

    name = 'folder-c'
    needs = ('folder-c',)
    layout = 'what `make-benchmark corrupted` makes'
    metric = 'error by corruption and severity, mean error'
    flags = ('subset',)
    kind = 'corrupted'

    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Return a part for each corruption and severity."""
        root, manifest, size = self.read(roots)
        reader = SubsetReader(setting)
        parts, partial = [], False
        for corruption in manifest['parameters']['corruptions']:
            for severity in SEVERITIES:
                part_name = f'{self.name}/{corruption}/{severity}'
                listing = read_own_folders(root / corruption / str(severity), setting, part_name)
                listing = reader.reduce(listing, part_name)
                partial |= listing.partial
                images = listing.images()
                check_sizes(images, size, part_name)
                parts.append(Part(part_name, images, listing.targets(), TopK))
        return Contents(parts, partial, reader.subset, reader.notes, image_size=size)

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        del setting
        return 'top-1 error of each corruption and severity; ImageNet-C-style, not ImageNet-C'

    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return errors, and their mean over the 15 main corruptions; None, with a note, where one is missing."""
        del measured
        table: dict[str, dict[str, Any]] = {}
        for part_name, state in states.items():
            _, corruption, severity = part_name.split('/')
            wrong = state['images'] - state['top1']
            table.setdefault(corruption, {})[severity] = share('error', wrong, state['images'])
        main = {name: [row['error'] / 100 for row in table[name].values()] for name in MAIN if name in table}
        mean, notes = None, []
        if len(main) == len(MAIN):
            mean = mean_error(main)
        else:
            missing = ', '.join(name for name in MAIN if name not in main)
            notes.append(f'no mean error over the 15 main corruptions: {missing} were not made')
        return Summary({'errors': table, 'mean_error_15': mean}, {'mean_error_15': mean}, notes)


@register_benchmark
class FolderStylized(MadeBenchmark):
    """Stylised images, Stylized-ImageNet-style."""

    name = 'folder-stylized'
    needs = ('folder-stylized',)
    layout = 'what `make-benchmark stylized` makes'
    metric = 'top-1, balanced accuracy'
    kind = 'stylized'

    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Return one part: all images."""
        root, _, size = self.read(roots)
        listing = read_own_folders(root, setting, self.name)
        images = listing.images()
        check_sizes(images, size, self.name)
        score = partial(ClassAccuracy, listing.classes)
        return Contents([Part(self.name, images, listing.targets(), score)], image_size=size)

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        return f'top-1 among {setting.num_classes} classes; Stylized-ImageNet-style, not Stylized-ImageNet'

    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return top-1 and balanced accuracy."""
        del measured
        return summarize_classes(states[self.name])


@register_benchmark
class FolderCueConflict(MadeBenchmark):
    """Images with the shape of one class and the texture of another."""

    name = 'folder-cue-conflict'
    needs = ('folder-cue-conflict',)
    layout = 'what `make-benchmark cue-conflict` makes'
    metric = 'shape bias, shape and texture fractions'
    kind = 'cue-conflict'

    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Return one part: all images."""
        root, manifest, size = self.read(roots)
        classes = sorted(manifest['source']['classes'])
        if len(classes) != setting.num_classes:
            raise DebiasError(
                f'{self.name}: {root} was made of {len(classes)} classes and the model has {setting.num_classes}'
            )
        check_order(root, classes, setting, self.name)
        files = [entry for name in classes for entry in list_images(root, name)]
        cues = [_cues(root, file, classes) for file, _ in files]
        images = FolderImages(root, [file for file, _ in files], [size_ for _, size_ in files])
        check_sizes(images, size, self.name)
        score = partial(ConflictDecisions, [[index] for index in range(len(classes))], classes)
        return Contents([Part(self.name, images, torch.tensor(cues), score)], image_size=size)

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        return (
            f'argmax of {setting.num_classes} classes; shape bias = shape / (shape + texture) decisions; '
            'cue-conflict-style, not the images of Geirhos et al.'
        )

    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return fractions and shape bias, for each class of shape too."""
        del measured
        state = states[self.name]
        metrics, headline = summarize_conflict(state, state['names'])
        return Summary(metrics, headline)


def _cues(root: Path, file: str, classes: list[str]) -> tuple[int, int]:
    """Return the classes of shape and texture that the name of a file tells."""
    shape, _, name = file.partition('/')
    stem = name.rpartition('.')[0]
    textures = [
        index
        for index, texture in enumerate(classes)
        if re.fullmatch(rf'{re.escape(shape)}\d+-{re.escape(texture)}\d+', stem)
    ]
    if len(textures) != 1 or classes[textures[0]] == shape:
        raise DebiasError(
            f'folder-cue-conflict: {root / file} does not tell shape and texture; expected a name such as '
            f'{shape}1-{classes[shape == classes[0]]}2.png'
        )
    return classes.index(shape), textures[0]
