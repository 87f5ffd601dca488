"""The epochs of a run: training, validation and checkpoints, in an order that can be stopped anywhere."""

import argparse
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from timm.utils import distribute_bn

from ..ranks import gather, on_primary
from .bad_images import BAD_IMAGES, update_bad_images
from .checkpoint import unwritable
from .config import TrainConfig
from .loop import Run, settle, train_one_epoch
from .meters import Meters
from .randomness import kept_random_state
from .saver import Saver
from .signals import Stopped
from .state import Position, capture
from .summary import update_summary

_logger = logging.getLogger(__name__)

Metrics = OrderedDict[str, Any]


def eval_metric(config: TrainConfig) -> str:
    """Return the metric that ranks the epochs."""
    return config.run.eval_metric if config.data.val_split else 'loss'


class Epochs:
    """Trains epoch by epoch, and saves after each, every `--checkpoint-steps` updates and at a signal.

    Args:
        run: What trains.
        args: Its flags, for the checkpoints.
        validate: Measures the model, in all processes; None for no validation.
        saver: Writes the checkpoints, in the first process alone.
        results: What came out of the epochs before.
    """

    def __init__(
        self,
        run: Run,
        args: argparse.Namespace,
        validate: Callable[[], Metrics] | None,
        saver: Saver | None,
        results: list[dict[str, Any]],
    ) -> None:
        self.run = run
        self.args = args
        self.validate = validate
        self.saver = saver
        self.results = results
        run.on_update = self._after_update

    def run_from(self, position: Position, meters: Meters) -> None:
        """Train from a position to the last epoch.

        Args:
            position: Where to start.
            meters: Means over the epoch so far.

        Raises:
            Stopped: a signal has come, and what it takes to go on is saved.
            DebiasError: a file cannot be written.
        """
        with self.run.stop.noted():
            epoch, batch = position
            for number in range(epoch, self.run.num_epochs):
                self._epoch(number, meters, batch)
                meters, batch = Meters(self.run.machine), 0

    def _epoch(self, epoch: int, meters: Meters, first_batch: int) -> None:
        run, interval = self.run, self.run.config.run.val_interval
        batches = len(run.loader)
        if first_batch < batches:
            with run.loader.workers.watched():
                train_one_epoch(run, epoch, meters, first_batch)
            self._share_batch_norm()
        train_metrics = meters.compute()
        self._count_faults(epoch, 'train', train_metrics, meters.bad, meters.skipped)
        is_milestone = epoch + 1 in (run.config.run.save_epochs or ())
        trained = Position(epoch, batches)
        if (epoch + 1) % interval and epoch + 1 != run.num_epochs and not is_milestone:
            if self._is_due(trained):
                self._save_position(trained, meters)
            if run.scheduler is not None:
                run.scheduler.step(epoch + 1, metric=None)
            return
        eval_metrics = self._validated(trained, meters)
        if eval_metrics:
            self._count_faults(epoch, 'validation', eval_metrics, run.bad_in_validation)
        result: dict[str, Any] = {'epoch': epoch, 'train': dict(train_metrics)}
        if eval_metrics:
            result['validation'] = dict(eval_metrics)
        self._finish(result, is_milestone)

    def _finish(self, result: dict[str, Any], is_milestone: bool) -> None:
        """Step the schedule to the next epoch and save."""
        run, epoch = self.run, result['epoch']
        metric = result.get('validation', result['train'])[eval_metric(run.config)]
        rates = [group['lr'] for group in run.optimizer.param_groups]
        lr = sum(rates) / len(rates)
        if run.scheduler is not None:
            run.scheduler.step(epoch + 1, metric)
        self.results.append(result)
        content = capture(run, self.args, Position(epoch + 1), None, self.results)
        on_primary(run.machine, lambda: self._save_epoch(content, result, metric, lr, is_milestone))

    def _validated(self, position: Position, meters: Meters) -> Metrics | None:
        """Return the metrics of validation; stopped in it, save an epoch that is trained and not yet validated."""
        if self.validate is None:
            return None
        if self._is_due(position):
            self._save_position(position, meters)
        try:
            # A loader draws where it has not started its workers yet, which depends on what ran before.
            with kept_random_state(self.run.machine.device):
                return self.validate()
        except Stopped:
            if not self._is_due(position):
                self._save_position(position, meters)
            raise

    def _count_faults(
        self, epoch: int, split: str, metrics: Metrics, bad: list[list[str]], skipped: int | None = None
    ) -> None:
        """Enter into the metrics what `--on-bad-image` and `--on-nonfinite` left out, and name the images in a file."""
        faults = self.run.config.faults
        if faults.on_bad_image != 'error':
            rows = [[epoch, split, *row] for process in gather(self.run.machine, lambda: bad) for row in process]
            metrics['bad_images'] = len(rows)
            on_primary(self.run.machine, lambda: self._log_bad_images(epoch, split, rows))
        if faults.on_nonfinite == 'skip' and skipped is not None:
            metrics['skipped_updates'] = skipped

    def _log_bad_images(self, epoch: int, split: str, rows: list[list[Any]]) -> None:
        assert self.saver is not None
        path = self.saver.folder / BAD_IMAGES
        try:
            update_bad_images(path, epoch, split, rows)
        except OSError as error:
            raise unwritable(path, error) from error

    def _after_update(self, epoch: int, batch: int, meters: Meters) -> None:
        position = Position(epoch, batch)
        stop = self.run.stop.agreed()
        if stop is None and not self._is_due(position):
            return
        settle(self.run, meters)
        self.run.progress.flush()  # A resumed run does not tell of these updates again.
        self._save_position(position, meters)
        if stop is not None:
            raise Stopped(stop)

    def _is_due(self, position: Position) -> bool:
        run, interval = self.run, self.run.config.run.recovery_interval
        updates = position.epoch * run.updates_per_epoch + -(-position.batch // run.config.model.grad_accum_steps)
        return bool(interval) and updates % interval == 0

    def _share_batch_norm(self) -> None:
        """Give all processes the same running statistics, as `--dist-bn` asks for it."""
        run, norm = self.run, self.run.config.norm
        if not run.machine.distributed or not norm.dist_bn or norm.sync_bn:
            return
        for ema in (False, True):
            module = run.task.get_trainable_module(ema=ema)
            if module is not None and not (ema and run.config.ema.model_ema_force_cpu):
                distribute_bn(module, run.machine.world_size, norm.dist_bn == 'reduce')

    def _save_epoch(
        self, content: dict[str, Any], result: dict[str, Any], metric: float, lr: float, is_milestone: bool
    ) -> None:
        assert self.saver is not None
        summary = self.saver.folder / 'summary.csv'
        try:
            # Before the checkpoint: stopped between the two, the run trains the epoch again and writes its row again.
            row = update_summary(summary, result['epoch'], result['train'], result.get('validation'), lr)
        except OSError as error:
            raise unwritable(summary, error) from error
        if self.run.trackers is not None:
            self.run.trackers.log_epoch(row)
        self.saver.save_epoch(content, result['epoch'], metric, is_milestone)

    def _save_position(self, position: Position, meters: Meters) -> None:
        content = capture(self.run, self.args, position, meters, self.results)
        on_primary(self.run.machine, lambda: self._save_step(content, position))

    def _save_step(self, content: dict[str, Any], position: Position) -> None:
        assert self.saver is not None
        update = -(-position.batch // self.run.config.model.grad_accum_steps) - 1
        path = self.saver.save_step(content, position.epoch, update)
        _logger.info(f'Saved {path}.')
