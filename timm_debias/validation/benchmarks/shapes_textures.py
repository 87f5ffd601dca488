"""The embedded data set: drawn images, of which those of the split `conflict` carry two labels."""

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from ...data.shapes_textures import CLASSES, SPLIT_SIZES, ShapesTextures
from ..scores import ConflictDecisions, State, TopK
from .base import Benchmark, Contents, Part, Setting, Summary
from .cue_conflict import summarize_conflict
from .imagenet import summarize_top_k
from .registry import register_benchmark


class DrawnImages:
    """Images of `shapes_textures`."""

    def __init__(self, dataset: ShapesTextures) -> None:
        self._dataset = dataset
        identity = f'{dataset.split} {dataset.img_size} {dataset.seed} {len(dataset)} {dataset.difficulty}'
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Image.Image:
        """Return an RGB image."""
        return self._dataset[index][0]

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self._dataset.filename(index)


@register_benchmark
class ShapesTexturesBenchmark(Benchmark):
    """Accuracy where shape and texture agree, and what decides where they conflict."""

    name = 'shapes_textures'
    needs = ()
    layout = 'none, drawn by code'
    num_images = SPLIT_SIZES['validation'] + SPLIT_SIZES['conflict']
    metric = 'top-1, shape bias'
    source = 'this project'
    num_classes = len(CLASSES)

    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Return two parts: the images of `validation` and of `conflict`, drawn at the size of the model's input."""
        del roots
        validation, conflict = (ShapesTextures(split, setting.img_size) for split in ('validation', 'conflict'))
        shapes = torch.tensor(validation.shape_labels)
        cues = torch.tensor(list(zip(conflict.shape_labels, conflict.texture_labels, strict=True)))
        decisions = partial(ConflictDecisions, [[index] for index in range(self.num_classes)])
        return Contents(
            [
                Part(f'{self.name}/validation', DrawnImages(validation), shapes, TopK),
                Part(f'{self.name}/conflict', DrawnImages(conflict), cues, decisions),
            ]
        )

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        return f'drawn at {setting.img_size}×{setting.img_size}; argmax of 8 classes; shape bias on conflict images'

    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return accuracy, fractions and shape bias."""
        del measured
        accuracy = summarize_top_k(states[f'{self.name}/validation'])
        metrics, headline = summarize_conflict(states[f'{self.name}/conflict'], list(CLASSES))
        return Summary(accuracy.metrics | metrics, accuracy.headline | headline)
