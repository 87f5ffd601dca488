"""The learning rate schedule of Li et al. (ICLR 2021)."""

import bisect
from collections.abc import Sequence

import torch
from timm.scheduler.scheduler import Scheduler

WARMUP_MULTISTEP = 'warmup_multistep'
"""Name of the schedule for `--sched`."""


class WarmupMultiStepLRScheduler(Scheduler):
    """Linear warm-up that arrives at the rate in its last update, then a step down at the start of each milestone.

    timm's multistep schedule warms up one update behind (its first update has the rate `warmup_lr_init` itself, here it
    is that of one step up) and decays one update or epoch before the milestone.

    Args:
        optimizer: Its parameter groups' `lr` is the rate after warm-up.
        milestones: Updates, counted from the start of training, from which the rate is multiplied by `decay_rate`.
        decay_rate: Factor of each decay.
        warmup_updates: Number of updates of the warm-up.
        warmup_lr_init: Rate that the warm-up starts above.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        milestones: Sequence[int],
        decay_rate: float = 0.1,
        warmup_updates: int = 0,
        warmup_lr_init: float = 0.0,
    ) -> None:
        super().__init__(optimizer, param_group_field='lr', t_in_epochs=False)
        self.milestones = sorted(milestones)
        self.decay_rate = decay_rate
        self.warmup_updates = warmup_updates
        self.warmup_lr_init = warmup_lr_init
        self.update_groups(self._get_lr(0))

    def _get_lr(self, t: int) -> list[float]:
        """Return the rates of update number `t`, from 0."""
        if t < self.warmup_updates:
            share = (t + 1) / self.warmup_updates
            return [self.warmup_lr_init + (rate - self.warmup_lr_init) * share for rate in self.base_values]
        factor = self.decay_rate ** bisect.bisect_right(self.milestones, t)
        return [rate * factor for rate in self.base_values]
