"""The results folders that a report shows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DebiasError
from ..validation.results import read_folders, read_results
from ..validation.tables import mark_of
from .svg import Look, look


@dataclass(frozen=True)
class Run:
    """A measured model."""

    label: str
    """Name of the model; where several have it, with the folder."""

    folder: Path
    results: Mapping[str, Any]
    look: Look

    def entry(self, benchmark: str) -> Mapping[str, Any] | None:
        """Return what was measured on a benchmark, None where it was not."""
        return self.results['benchmarks'].get(benchmark)

    def marked(self, *benchmarks: str) -> str:
        """Return the label, with a mark where one of the benchmarks was not measured as a whole."""
        entries = self.results['benchmarks']
        marks = dict.fromkeys(mark for name in benchmarks if name in entries and (mark := mark_of(entries[name])))
        return f'{self.label} ({"; ".join(marks)})' if marks else self.label


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Return the results of each folder, and of each model below a folder of `--models`.

    Raises:
        DebiasError: no results folder, or one that is given twice.
    """
    paths = [path for folder in map(Path, folders) for path in read_folders(folder) or [folder]]
    resolved = Counter(path.resolve() for path in paths)
    for path in paths:
        if resolved[path.resolve()] > 1:
            raise DebiasError(f'{path} is given twice')
    results = [read_results(path) for path in paths]
    labels = _labels([result['model'] for result in results], paths)
    return [
        Run(label, path, result, look(number))
        for number, (label, path, result) in enumerate(zip(labels, paths, results, strict=True))
    ]


def _labels(models: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return names that tell all runs apart: model, model and name of the folder, or model and whole path."""
    labels = list(models)
    for names in ([folder.name for folder in folders], [str(folder) for folder in folders]):
        counts = Counter(labels)
        labels = [
            f'{model}, {name}' if counts[label] > 1 else label
            for label, model, name in zip(labels, models, names, strict=True)
        ]
    return labels
