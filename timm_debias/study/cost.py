"""What a run took: processor time on a CPU, hours of GPUs elsewhere."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from ..training.config import DeviceConfig
from .analysis import Group
from .grid import expand

_STAGES = ('train', 'validate')


@dataclass(frozen=True)
class Cost:
    """The column of the report that says what a run took."""

    on_cpu: bool

    @classmethod
    def of(cls, group: Group) -> 'Cost':
        """Return the cost that fits the devices of a group's runs."""
        devices = {
            str(run.train.get('device', DeviceConfig().device))
            for run in expand(group.study)
            if run.model == group.model and run.data in (group.pooled or (group.data,))
        }
        return cls(devices == {'cpu'})

    @property
    def title(self) -> str:
        """Head of the column."""
        return 'CPU minutes a run, median' if self.on_cpu else 'GPU hours a run, median'

    @property
    def caveat(self) -> str:
        """What the figures leave out."""
        if self.on_cpu:
            return (
                'CPU minutes: training and measuring, without what worker processes took; of a run that was '
                'interrupted, what came before may be missing.'
            )
        return (
            'GPU hours: wall time of training and measuring times the number of processes, data loading and waiting '
            'included; of a run that was interrupted, what came before may be missing.'
        )

    def median(self, group: Group, method: str) -> str:
        """Return the median over the runs of a method, '–' where none was timed."""
        found = [value for run in group.runs[method].values() if (value := self._of_run(run)) is not None]
        return f'{statistics.median(found):.1f}' if found else '–'

    def _of_run(self, figures: Mapping[str, float]) -> float | None:
        """Return what a run took, None where a stage was not timed, as in results of before wall time was kept."""
        columns = [f'seconds_{stage}' + ('' if self.on_cpu else '_wall') for stage in _STAGES]
        if any(column not in figures for column in columns):
            return None
        seconds = sum(figures[column] for column in columns)
        return seconds / 60 if self.on_cpu else seconds * figures.get('processes', 1) / 3600
