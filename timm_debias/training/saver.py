"""Which checkpoints of a run are kept: timm's names and its ranking, and one more to fall back on.

`last` is the newest epoch's and `previous` the one's before; `checkpoint-N` are the best ones, `model_best` the best of
them, `milestone-N` those of `--save-epochs`, and `recovery-E-U` the last two that were saved within an epoch. Names of
the same epoch are hard links of one file, where the disk has them. What a checkpoint says of the others is how they are
meant to be once it is written, so that a resumed run can finish what a killed one has begun.
"""

import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

from ..files import atomic_path
from .checkpoint import ENTRY, last_serial, read_checkpoint, unwritable, write_checkpoint

_EXTENSION = '.pth.tar'
_STEPS_KEPT = 2
_OURS = re.compile(r'(checkpoint-\d+|recovery-\d+-\d+)\.pth\.tar')
"""Names that may be removed, whatever a checkpoint says."""


def rank(metric: float, decreasing: bool) -> tuple[bool, float]:
    """Return what sorts the better metric first and NaN, which compares with nothing, last."""
    return (True, 0.0) if math.isnan(metric) else (False, metric if decreasing else -metric)


class Saver:
    """Writes and rotates the checkpoints of a run's folder.

    Args:
        folder: The run's folder.
        decreasing: Whether a lower metric is better.
        max_history: Number of `checkpoint-N` to keep.
    """

    def __init__(self, folder: Path, decreasing: bool, max_history: int) -> None:
        self.folder = folder
        self.decreasing = decreasing
        self.max_history = max_history
        self.ranked: list[tuple[str, float]] = []
        self.best: tuple[int, float] | None = None
        self.steps: list[str] = []
        self.serial = last_serial(folder)

    def save_epoch(self, content: dict[str, Any], epoch: int, metric: float, is_milestone: bool = False) -> None:
        """Write `last`, keep the one before, and give the epoch the place among the best that its metric earns.

        Args:
            content: What `capture` returned.
            epoch: Number of the epoch.
            metric: What ranks it.
            is_milestone: Keep it as `milestone-N` for good, N the number of finished epochs.

        Raises:
            DebiasError: a file cannot be written; all that were there are intact.
        """
        dropped = self._rank(epoch, metric)
        # timm's key, by which its tools and `timm-debias average` choose among checkpoints.
        content = {**self._described(content, dropped, (epoch, metric), is_milestone), 'metric': metric}
        last = self._path('last')
        if last.exists():
            _link(last, self._path('previous'))
        write_checkpoint(last, content)
        self._arrange(last, epoch, dropped, is_milestone)

    def save_step(self, content: dict[str, Any], epoch: int, update: int) -> Path:
        """Write `recovery-<epoch>-<update>` and remove the oldest where there are more than two; return its path.

        One that this run has written already stays as it is: it is where a resumed run has started.

        Raises:
            DebiasError: the file cannot be written; all that were there are intact.
        """
        name = f'recovery-{epoch}-{update}{_EXTENSION}'
        if name in self.steps and (self.folder / name).exists():
            return self.folder / name
        others = [step for step in self.steps if step != name]
        dropped, self.steps = others[: 1 - _STEPS_KEPT], [*others[1 - _STEPS_KEPT :], name]
        write_checkpoint(self.folder / name, self._described(content, dropped, (None, None)))
        self._remove(dropped)
        return self.folder / name

    def restore(self, path: Path, content: dict[str, Any]) -> None:
        """Take over the history that a checkpoint of this folder holds, and finish what it says of the others."""
        state = content.get('saver', {})
        files = [(name, metric) for name, metric in state.get('checkpoint_files', []) if metric is not None]
        epoch, metric = state.get('pending', (None, None))
        self.ranked = files
        if state.get('best_epoch') is not None:
            self.best = state['best_epoch'], state['best_metric']
        if ENTRY not in content and epoch is not None and metric is not None:
            self._rank(epoch, metric)  # timm writes the history as it was before this checkpoint.
        self.steps = list(state.get('recovery_files', []))
        self._arrange(path, epoch, state.get('dropped', []), state.get('is_milestone', False))
        self.ranked = [(name, metric) for name, metric in self.ranked if (self.folder / name).exists()]
        if self.best is not None and not self._has_best(self.best[0]):
            self._choose_best()

    def _has_best(self, epoch: int) -> bool:
        """Return whether a file still has the weights of the best epoch; one of them may have been removed by hand."""
        if self._path(f'checkpoint-{epoch}').exists():
            return True
        model_best = self._path('model_best')
        return model_best.exists() and read_checkpoint(model_best).get('saver', {}).get('pending', [None])[0] == epoch

    def _choose_best(self) -> None:
        """Take the best of the files that are there: those of a future that the run goes back from may have displaced
        the one that was best until here."""
        self.best = None
        if self.ranked:
            name, metric = self.ranked[0]
            self.best = int(name.removeprefix('checkpoint-').removesuffix(_EXTENSION)), metric
            _link(self.folder / name, self._path('model_best'))

    def _rank(self, epoch: int, metric: float) -> list[str]:
        """Enter an epoch into the ranking, ties to the earlier, and return the names that fall out of it.

        The epoch's own may be among them: then a file of this name is of a future that the run has gone back from.
        """
        name = self._path(f'checkpoint-{epoch}').name
        entries = [entry for entry in self.ranked if entry[0] != name] + [(name, metric)]
        entries.sort(key=lambda entry: rank(entry[1], self.decreasing))
        self.ranked = entries[: self.max_history]
        if self.best is None or rank(metric, self.decreasing) < rank(self.best[1], self.decreasing):
            self.best = epoch, metric
        return [dropped for dropped, _ in entries[self.max_history :]]

    def _described(
        self, content: dict[str, Any], dropped: list[str], pending: tuple, is_milestone: bool = False
    ) -> dict[str, Any]:
        """Return the content with its number and with what it says of the other files."""
        self.serial += 1
        state = {
            'checkpoint_files': self.ranked,
            'best_epoch': self.best[0] if self.best else None,
            'best_metric': self.best[1] if self.best else None,
            'pending': pending,
            'recovery_files': self.steps,
            'dropped': dropped,
            'is_milestone': is_milestone,
        }
        return {**content, 'saver': state, ENTRY: {**content[ENTRY], 'serial': self.serial}}

    def _arrange(self, newest: Path, epoch: int | None, dropped: list[str], is_milestone: bool) -> None:
        """Bring the files that are links of others into the state that the ranking says."""
        names = [name for name, _ in self.ranked]
        numbered = self._path(f'checkpoint-{epoch}')
        if numbered.name in names and newest.parent == self.folder:
            _link(newest, numbered)
        if is_milestone and epoch is not None:
            _link(newest, self._path(f'milestone-{epoch + 1}'))
        if self.best is not None:
            best = self._path(f'checkpoint-{self.best[0]}')
            if best.exists():
                _link(best, self._path('model_best'))
        self._remove([name for name in dropped if name != newest.name])

    def _remove(self, names: list[str]) -> None:
        for name in filter(_OURS.fullmatch, names):
            (self.folder / name).unlink(missing_ok=True)

    def _path(self, stem: str) -> Path:
        return self.folder / f'{stem}{_EXTENSION}'


def _link(source: Path, target: Path) -> None:
    """Make `target` another name of `source`, a copy where the disk has no hard links; never is there neither."""
    if target.exists() and target.samefile(source):
        return
    try:
        with atomic_path(target) as temporary:
            temporary.unlink()
            try:
                os.link(source, temporary)
            except (OSError, NotImplementedError):
                shutil.copyfile(source, temporary)
    except OSError as error:
        raise unwritable(target, error) from error
