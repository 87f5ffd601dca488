"""ImageNet-O: images of no class of ImageNet, to be told from those of the validation set by low confidence."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ...errors import DebiasError
from ...metrics import aupr, auroc, fpr_at_95_tpr
from ..scores import State, SubsetConfidence
from .base import Benchmark, Contents, Part, Setting, Summary
from .classes import imagenet_classes, subset_classes
from .layout import read_class_folders
from .registry import register_benchmark

_VAL_IMAGES = 50_000


@register_benchmark
class ImageNetO(Benchmark):
    """Positives are its images, negatives those of ImageNet's validation set in its 200 classes."""

    name = 'imagenet-o'
    folders = ('imagenet-o',)
    needs = ('imagenet-o', 'imagenet')
    layout = '`imagenet-o/<wnid>/*`, and that of imagenet'
    num_images = 2_000
    metric = 'AUPR, AUROC, FPR95'
    source = 'Hendrycks et al., CVPR 2021'

    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Return two parts: the images of ImageNet-O, and those of the validation set in its classes."""
        classes, allowed = subset_classes('o'), setting.suite.allow_partial
        out = read_class_folders(roots[self.name], classes, self.num_images, self.name, allowed)
        val = read_class_folders(roots['imagenet'], imagenet_classes(), _VAL_IMAGES, f'{self.name} (imagenet)', allowed)
        subset = set(classes.values())
        inside = val.keep(lambda _, target: target in subset)
        if not inside.files:
            raise DebiasError(f"{self.name}: {val.root} has no image of the benchmark's 200 classes")
        score = partial(SubsetConfidence, list(classes.values()))
        parts = [
            Part(f'{self.name}/{name}', listing.images(), listing.targets(), score)
            for name, listing in (('out', out), ('in', inside))
        ]
        return Contents(parts, out.partial or val.partial)

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        del setting
        return (
            "anomaly score: minus the largest softmax probability over the benchmark's 200 classes (its own, not those "
            "of ImageNet-A); negatives: ImageNet's validation images of these classes"
        )

    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return AUROC, AUPR and FPR at 95 % TPR."""
        del measured
        scores = [[-value for value in states[f'{self.name}/{name}']['confidence']] for name in ('in', 'out')]
        metrics = {
            'auroc': 100 * auroc(*scores),
            'aupr': 100 * aupr(*scores),
            'fpr95': 100 * fpr_at_95_tpr(*scores),
            'negatives': len(scores[0]),
            'positives': len(scores[1]),
        }
        return Summary(metrics, {'aupr': metrics['aupr']})
