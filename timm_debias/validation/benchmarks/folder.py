"""Class folders of one's own: accuracy, and accuracy under attack."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ...metrics import balanced_accuracy
from ..scores import ClassAccuracy, State, share
from .attacks import AttackBenchmark, Fgsm, Pgd
from .base import Benchmark, Contents, Part, Setting, Summary
from .layout import Listing, read_own_folders
from .registry import register_benchmark

LAYOUT = '`<class>/*`, the folder of `--benchmark-dir folder=PATH`'
SOURCE = 'your own'


@register_benchmark
class Folder(Benchmark):
    """Class folders of one's own, through the model's transform."""

    name = 'folder'
    needs = ('folder',)
    layout = LAYOUT
    num_images = None
    metric = 'top-1, balanced accuracy'
    source = SOURCE
    num_classes = None

    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Return one part: all images."""
        listing = read_own_folders(roots[self.name], setting, self.name)
        score = partial(ClassAccuracy, listing.classes)
        return Contents([Part(self.name, listing.images(), listing.targets(), score)])

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        return f'top-1 among {setting.num_classes} classes; balanced accuracy is the mean over classes of their top-1'

    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return top-1 and balanced accuracy."""
        del measured
        return summarize_classes(states[self.name])


def summarize_classes(state: State) -> Summary:
    """Return top-1 with its interval and balanced accuracy from the state of a `ClassAccuracy`."""
    metrics = share('top1', sum(state['right']), sum(state['images']))
    # Where unreadable images were skipped, a class may have none left.
    complete = all(state['images'])
    metrics['balanced_accuracy'] = 100 * balanced_accuracy(state['right'], state['images']) if complete else None
    metrics['classes'] = {
        name: {'images': images, 'right': right}
        for name, images, right in zip(state['names'], state['images'], state['right'], strict=True)
    }
    notes = [] if complete else ['no balanced accuracy: a class has no image']
    return Summary(metrics, {name: metrics[name] for name in ('top1', 'balanced_accuracy')}, notes)


class FolderAttack(AttackBenchmark):
    """An attack on the images of `folder`."""

    needs = ('folder',)
    layout = 'that of folder'
    num_images = None
    num_classes = None

    def listing(self, roots: Mapping[str, Path], setting: Setting, allow_partial: bool) -> Listing:
        """Return the images to attack; there is no official number of them."""
        del allow_partial
        return read_own_folders(roots['folder'], setting, self.name)


@register_benchmark
class FolderFgsm(FolderAttack, Fgsm):
    """FGSM on the images of `folder`."""

    name = 'folder-fgsm'


@register_benchmark
class FolderPgd(FolderAttack, Pgd):
    """PGD on the images of `folder`."""

    name = 'folder-pgd'
