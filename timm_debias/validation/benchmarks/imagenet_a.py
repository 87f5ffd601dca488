"""ImageNet-A, and what the benchmarks over 200 of ImageNet's classes share."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from ...metrics import aurra, rms_calibration_error
from ..scores import State, SubsetAccuracy, share
from .base import Benchmark, Contents, Part, Setting, Summary
from .classes import subset_classes
from .layout import read_class_folders
from .registry import register_benchmark

_BIN_SIZE = 100


class SubsetBenchmark(Benchmark):
    """A benchmark of one folder with 200 class folders: the model decides among these classes only."""

    num_images: ClassVar[int]
    subset: ClassVar[str]
    metric = 'top-1 of 200 classes, calibration'

    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Return one part: all images."""
        classes = subset_classes(self.subset)
        listing = read_class_folders(roots[self.name], classes, self.num_images, self.name, setting.suite.allow_partial)
        score = partial(SubsetAccuracy, list(classes.values()))
        return Contents([Part(self.name, listing.images(), listing.targets(), score)], listing.partial)

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        del setting
        return (
            "logits cut to the benchmark's 200 classes, argmax; confidence is the softmax over them; RMS calibration "
            f'error over bins of {_BIN_SIZE} images'
        )

    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return accuracies, calibration errors and AURRA."""
        del measured
        state = states[self.name]
        images, confidence, correct = state['images'], state['confidence'], state['correct']
        metrics = share('top1', state['right'], images) | share('top1_of_1000', state['right_of_all'], images)
        metrics['rms_calibration_error'] = 100 * rms_calibration_error(confidence, correct, _BIN_SIZE)
        notes = []
        if images >= 2 * _BIN_SIZE:
            original = rms_calibration_error(confidence, correct, _BIN_SIZE, original=True)
            metrics['rms_calibration_error_original'] = 100 * original
        else:
            metrics['rms_calibration_error_original'] = None
            notes.append('rms_calibration_error_original leaves out the last bin, and there is only one')
        metrics['aurra'] = 100 * aurra(confidence, correct)
        return Summary(metrics, {'top1': metrics['top1']}, notes)


@register_benchmark
class ImageNetA(SubsetBenchmark):
    """Natural images chosen because a ResNet-50 gets them wrong."""

    name = 'imagenet-a'
    subset = 'a'
    folders = ('imagenet-a',)
    needs = ('imagenet-a',)
    layout = '`imagenet-a/<wnid>/*.jpg`'
    num_images = 7_500
    source = 'Hendrycks et al., CVPR 2021'
