"""What a run took: processor time on a CPU, hours of GPUs elsewhere."""

import statistics
from dataclasses import dataclass

from ..training.config import DeviceConfig
from .analysis import Group
from .grid import expand

_STAGES = ('seconds_train', 'seconds_validate')


@dataclass(frozen=True)
class Cost:
    """The column of the report that says what a run took."""

    on_gpu: bool
    """Whether seconds in results.csv are wall time of GPUs, and not processor time."""

    @classmethod
    def of(cls, group: Group) -> 'Cost':
        """Return the cost that fits the devices of a group's runs."""
        devices = [
            str(run.train.get('device', DeviceConfig().device))
            for run in expand(group.study)
            if run.model == group.model and run.data in (group.pooled or (group.data,))
        ]
        return cls(any(device.startswith('cuda') for device in devices))

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
        seconds = [
            sum(run[stage] for stage in _STAGES)
            for run in group.runs[method].values()
            if all(stage in run for stage in _STAGES)
        ]
        return f'{statistics.median(seconds) / (3600 if self.on_gpu else 60):.1f}' if seconds else '–'
