"""What a run took: processor time on a CPU, hours of GPUs elsewhere."""

import statistics
from dataclasses import dataclass

from .analysis import Group

_CPU = ('seconds_train', 'seconds_validate')
_GPU = tuple(f'gpu_{column}' for column in _CPU)


@dataclass(frozen=True)
class Cost:
    """The column of the report that says what a run took."""

    on_gpu: bool
    """Whether it is wall time of GPUs, and not processor time."""

    @classmethod
    def of(cls, group: Group) -> 'Cost':
        """Return the cost of a group: that of GPUs where its runs used any."""
        return cls(any(column in _GPU for column in group.columns))

    @property
    def title(self) -> str:
        """Head of the column."""
        return 'GPU hours a run, median' if self.on_gpu else 'CPU minutes a run, median'

    @property
    def caveat(self) -> str:
        """What the figures count, and what they leave out."""
        counted = (
            'GPU hours: wall time of training and measuring times the number of processes, waiting for data included'
            if self.on_gpu
            else 'CPU minutes: processor time of training and measuring'
        )
        return f'{counted}; of a run that was interrupted, the part before may be missing.'

    def median(self, group: Group, method: str) -> str:
        """Return the median over the runs of a method, '–' where none was timed."""
        columns = _GPU if self.on_gpu else _CPU
        seconds = [
            sum(run[column] for column in columns)
            for run in group.runs[method].values()
            if all(column in run for column in columns)
        ]
        return f'{statistics.median(seconds) / (3600 if self.on_gpu else 60):.1f}' if seconds else '–'
