"""ImageNet's validation set, and what benchmarks like it share: class folders, top-1 and top-5 among 1,000 classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ..scores import State, TopK, share
from .base import Benchmark, Contents, Part, Setting, Summary
from .classes import imagenet_classes
from .layout import check_sizes, read_class_folders
from .registry import register_benchmark


class TopKBenchmark(Benchmark):
    """A benchmark of one folder with ImageNet's 1,000 class folders."""

    metric = 'top-1, top-5'
    num_images: ClassVar[int]
    num_classes: ClassVar[int] = 1000

    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Return one part: all images."""
        root, partial = roots[self.name], setting.suite.allow_partial
        listing = read_class_folders(root, self.folder_classes(root), self.num_images, self.name, partial)
        images = listing.images()
        if self.image_size is not None:
            check_sizes(images, self.image_size, self.name)
        return Contents([Part(self.name, images, listing.targets(), TopK)], listing.partial)

    def folder_classes(self, root: Path) -> Mapping[str, int]:
        """Return the expected names of class folders, and the class index of each."""
        del root
        return imagenet_classes()

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        del setting
        return 'top-1 and top-5 among 1,000 classes'

    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return top-1 and top-5."""
        del measured
        return summarize_top_k(states[self.name])


def summarize_top_k(state: State) -> Summary:
    """Return top-1 and top-5 with their intervals from the state of a `TopK`."""
    metrics = share('top1', state['top1'], state['images']) | share('top5', state['top5'], state['images'])
    return Summary(metrics, {'top1': metrics['top1']})


@register_benchmark
class ImageNet(TopKBenchmark):
    """The validation set of ILSVRC 2012."""

    name = 'imagenet'
    folders = ('imagenet/val', 'imagenet/validation', 'imagenet-1k/val', 'ILSVRC2012/val')
    needs = ('imagenet',)
    layout = '`imagenet/val/<wnid>/ILSVRC2012_val_*.JPEG`'
    num_images = 50_000
    source = 'Russakovsky et al., IJCV 2015'
