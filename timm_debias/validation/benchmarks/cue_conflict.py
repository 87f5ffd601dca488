"""The cue conflict images of Geirhos et al.: the shape of one category, the texture of another."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...errors import DebiasError
from ...metrics import shape_bias
from ..scores import ConflictDecisions, State, share
from .base import Benchmark, Contents, Part, Setting, Summary
from .categories import category_classes
from .layout import FolderImages, check_class_folders, check_sizes, list_images
from .registry import register_benchmark

PUBLISHED_DECISIONS = {'humans': (9236, 398), 'ResNet-50': (162, 572)}
"""Decisions for shape and for texture, counted in the per-trial data of rgeirhos/texture-vs-shape: raw-data/
style-transfer-512-nomask-experiment (ten humans) and …-experiment-trained-CNNs (ResNet-50 of torchvision)."""

_NUM_FILES = 1_280
_NAME = re.compile(r'([a-z]+)\d+-([a-z]+)\d+\.png')


@register_benchmark
class CueConflict(Benchmark):
    """1,280 images; the 80 whose shape and texture are of one category decide nothing and are left out."""

    name = 'cue-conflict'
    folders = ('cue-conflict', 'cue_conflict', 'style-transfer-preprocessed-512')
    needs = ('cue-conflict',)
    layout = '`cue-conflict/<shape>/<shape>N-<texture>M.png`, 224×224'
    num_images = 1_200
    metric = 'shape bias, shape and texture fractions'
    source = 'Geirhos et al., ICLR 2019'
    image_size = 224

    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Return one part: the images whose cues conflict."""
        root = roots[self.name]
        categories = {category: index for index, category in enumerate(category_classes())}
        files = [
            entry for name in check_class_folders(root, categories, self.name) for entry in list_images(root, name)
        ]
        incomplete = len(files) != _NUM_FILES
        if incomplete and not setting.suite.allow_partial:
            raise DebiasError(
                f'{self.name}: {root} has {len(files):,} images, expected {_NUM_FILES:,} in {len(categories)} folders; '
                'complete it, or give --allow-partial to measure what is there'
            )
        cues = [_cues(root, file, categories) for file, _ in files]
        kept = [(entry, cue) for entry, cue in zip(files, cues, strict=True) if cue[0] != cue[1]]
        if not kept:
            raise DebiasError(f'{self.name}: {root} has no image whose shape and texture are of two categories')
        images = FolderImages(root, [file for (file, _), _ in kept], [size for (_, size), _ in kept])
        check_sizes(images, 224, self.name)
        score = partial(ConflictDecisions, list(category_classes().values()))
        return Contents([Part(self.name, images, torch.tensor([cue for _, cue in kept]), score)], incomplete)

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        del setting
        return (
            'softmax over 1,000 classes, arithmetic mean over the classes of each of 16 categories, argmax; images '
            'with equal categories left out; shape bias = shape / (shape + texture) decisions'
        )

    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return fractions and shape bias, for each category of shape too, and the published shape bias."""
        del measured
        state = states[self.name]
        metrics, headline = summarize_conflict(state, list(category_classes()))
        metrics['published_shape_bias'] = {
            name: 100 * (shape_bias(*decisions) or 0.0) for name, decisions in PUBLISHED_DECISIONS.items()
        }
        return Summary(metrics, headline)


def summarize_conflict(state: State, categories: list[str]) -> tuple[dict[str, Any], dict[str, float | None]]:
    """Return metrics and headline from the state of a `ConflictDecisions`."""
    images, shape, texture = (sum(state[name]) for name in ('images', 'shape', 'texture'))
    metrics = share('shape', shape, images) | share('texture', texture, images)
    metrics |= share('shape_bias', shape, shape + texture) if shape + texture else {'shape_bias': None}
    metrics['categories'] = {}
    for category, n_images, n_shape, n_texture in zip(
        categories, state['images'], state['shape'], state['texture'], strict=True
    ):
        bias = shape_bias(n_shape, n_texture)
        metrics['categories'][category] = {
            'images': n_images,
            'shape': n_shape,
            'texture': n_texture,
            'shape_bias': None if bias is None else 100 * bias,
        }
    return metrics, {name: metrics[name] for name in ('shape_bias', 'shape', 'texture')}


def _cues(root: Path, file: str, categories: Mapping[str, int]) -> tuple[int, int]:
    """Return the categories of shape and texture that the name of a file tells."""
    folder, _, name = file.partition('/')
    match = _NAME.fullmatch(name)
    if match is None or match[1] != folder or match[2] not in categories:
        raise DebiasError(
            f'cue-conflict: {root / file} does not tell shape and texture; expected a name such as '
            f'{folder}1-{"car" if folder != "car" else "cat"}2.png in the folder of its shape'
        )
    return categories[folder], categories[match[2]]
