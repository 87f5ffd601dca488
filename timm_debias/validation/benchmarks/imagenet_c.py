"""ImageNet-C: 15 main and 4 extra corruptions at five severities."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import DebiasError
from ...metrics import (
    ALEXNET_ERRORS,
    EXTRA_CORRUPTIONS,
    SEVERITIES,
    corruption_error,
    mean_corruption_error,
    mean_error,
    relative_corruption_error,
)
from ..scores import State, TopK, share
from .base import Benchmark, Contents, Part, Setting, Summary
from .classes import imagenet_classes
from .layout import check_sizes, read_class_folders
from .registry import register_benchmark
from .subset import SubsetReader

_IMAGES_OF_FOLDER = 50_000
_CORRUPTIONS = (*ALEXNET_ERRORS, *EXTRA_CORRUPTIONS)


@register_benchmark
class ImageNetC(Benchmark):
    """The saved JPEGs are the benchmark: corruptions made in memory, or resized, give other figures."""

    name = 'imagenet-c'
    folders = ('imagenet-c', 'ImageNet-C')
    needs = ('imagenet-c',)
    layout = '`imagenet-c/<corruption>/<1…5>/<wnid>/*.JPEG`, 224×224'
    num_images = len(ALEXNET_ERRORS) * len(SEVERITIES) * _IMAGES_OF_FOLDER
    metric = 'mCE, relative mCE, mean error'
    source = 'Hendrycks & Dietterich, ICLR 2019'
    image_size = 224
    flags = ('subset',)

    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Return a part for each corruption and severity; the extra corruptions are measured where they are there."""
        root, reader = roots[self.name], SubsetReader(setting)
        folders, partial = self._folders(root, setting.suite.allow_partial)
        parts = []
        for corruption, severity in folders:
            part_name = f'{self.name}/{corruption}/{severity}'
            listing = read_class_folders(
                root / corruption / str(severity),
                imagenet_classes(),
                _IMAGES_OF_FOLDER,
                part_name,
                reader.allow_partial,
            )
            listing = reader.reduce(listing, part_name)
            images = listing.images()
            check_sizes(images, 224, part_name)
            parts.append(Part(part_name, images, listing.targets(), TopK))
            partial |= listing.partial
        return Contents(parts, partial, reader.subset, reader.notes)

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        del setting
        return (
            "top-1 error of each corruption and severity; CE relative to AlexNet's mean error; mCE over the 15 main "
            'corruptions'
        )

    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return errors, CE, mCE, relative mCE and mean errors; None, with a note, where something is missing."""
        table: dict[str, dict[str, Any]] = {}
        for part_name, state in states.items():
            _, corruption, severity = part_name.split('/')
            wrong = state['images'] - state['top1']
            table.setdefault(corruption, {})[severity] = share('error', wrong, state['images'])
        complete = {
            corruption: [row[str(severity)]['error'] / 100 for severity in SEVERITIES]
            for corruption, row in table.items()
            if len(row) == len(SEVERITIES)
        }
        main = {corruption: complete[corruption] for corruption in ALEXNET_ERRORS if corruption in complete}
        metrics: dict[str, Any] = {
            'errors': table,
            'ce': {corruption: corruption_error(errors, corruption) for corruption, errors in main.items()},
            'mce': None,
            'relative_mce': None,
            'mean_error_15': None,
            'reference_mean_error_19': None,
        }
        notes = self._means(metrics, main, complete, measured)
        return Summary(metrics, {name: metrics[name] for name in ('mce', 'relative_mce', 'mean_error_15')}, notes)

    def _means(
        self,
        metrics: dict[str, Any],
        main: dict[str, list[float]],
        complete: dict[str, list[float]],
        measured: Mapping[str, Summary],
    ) -> list[str]:
        """Fill the figures over many corruptions into `metrics`; return notes on those that stay None."""
        notes = []
        if len(main) == len(ALEXNET_ERRORS):
            metrics |= {'mce': mean_corruption_error(main), 'mean_error_15': mean_error(main)}
            if 'imagenet' in measured:
                clean = 1 - measured['imagenet'].metrics['top1'] / 100
                metrics['relative_mce'] = relative_corruption_error(main, clean)
            else:
                notes.append(
                    'no relative mCE: it needs the error on imagenet, complete and of the same images, measured in the '
                    'same run'
                )
        else:
            missing = [corruption for corruption in ALEXNET_ERRORS if corruption not in main]
            notes.append(f'no mCE and no mean error: {", ".join(missing)} missing or without all five severities')
        if len(complete) == len(_CORRUPTIONS):
            metrics['reference_mean_error_19'] = mean_error(complete)
        else:
            notes.append(
                "no reference_mean_error_19, the reference implementation's figure: it takes all 19 corruptions"
            )
        return notes

    def _folders(self, root: Path, allow_partial: bool) -> tuple[list[tuple[str, int]], bool]:
        """Return corruption and severity of each folder that is there, and whether some are missing."""
        there = [
            (corruption, severity)
            for corruption in _CORRUPTIONS
            for severity in SEVERITIES
            if (root / corruption / str(severity)).is_dir()
        ]
        begun = {corruption for corruption, _ in there}
        wanted = [name for name in _CORRUPTIONS if name in ALEXNET_ERRORS or name in begun]
        missing = [
            f'{corruption}/{severity}'
            for corruption in wanted
            for severity in SEVERITIES
            if (corruption, severity) not in there
        ]
        if not there or (missing and not allow_partial):
            shown = f'{", ".join(missing[:4])}{", …" if len(missing) > 4 else ""}'
            raise DebiasError(
                f'{self.name}: {root} lacks {len(missing)} of the {len(wanted) * len(SEVERITIES)} folders '
                f'<corruption>/<severity> ({shown}), expected such as gaussian_noise/1; complete it, or give '
                '--allow-partial to measure what is there'
            )
        return there, bool(missing)
