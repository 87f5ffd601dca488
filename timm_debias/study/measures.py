"""Whether runs will have the figures that a study asks for."""

from collections.abc import Iterable, Mapping, Sequence

from ..errors import DebiasError
from .collect import PARAMETERS
from .config import Measure
from .grid import Run, filled

_OF_TRAINING = (
    'validation_top1', PARAMETERS, 'seconds_train', 'seconds_validate', 'gpu_seconds_train', 'gpu_seconds_validate',
)  # fmt: skip
"""Columns of results.csv that come of no benchmark."""


def check_measures(measures: Iterable[Measure], runs: Sequence[Run], variables: Mapping[str, str], where: str) -> None:
    """Check that each measure is of a benchmark of the runs; which columns that one has shows when it was measured.

    Another benchmark would be another flag, so to add it later is to run everything again.

    Args:
        measures: Those of the study.
        runs: All of its runs, whichever are called.
        variables: What `${NAME}` stands for.
        where: The study, for errors.

    Raises:
        DebiasError: a measure of no benchmark.
    """
    named = (filled(run.validate.get('benchmarks', ''), run.variables | dict(variables)) for run in runs)
    benchmarks = {name.strip() for names in named for name in names.split(',')}
    if 'all' in benchmarks:
        return
    starts = tuple(f'{name}{separator}' for name in benchmarks for separator in '_/')
    for measure in measures:
        if measure.column not in _OF_TRAINING and not measure.column.startswith(starts):
            raise DebiasError(
                f"{where}: measures: {measure.label}: '{measure.column}' is no column of what the runs measure "
                f'({", ".join(sorted(benchmarks))}); correct it, or add its benchmark to validate: benchmarks'
            )
