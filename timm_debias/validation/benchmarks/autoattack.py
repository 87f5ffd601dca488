"""AutoAttack on ImageNet's validation images."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from ..autoattack import auto_attack
from .attacks import SPACE, AttackBenchmark
from .base import Attack, Setting
from .registry import register_benchmark


@register_benchmark
class AutoAttackBenchmark(AttackBenchmark):
    """An ensemble of attacks: the protocol of RobustBench."""

    name = 'autoattack'
    source = 'Croce & Hein, ICML 2020'
    default_epsilons = (4.0,)
    package = 'pyautoattack'
    extra = 'autoattack'

    def attack(self, epsilon: float, setting: Setting) -> Attack:
        """Return AutoAttack."""
        return partial(_ensemble, epsilon=epsilon / 255, seed=setting.seed)

    def cost(self, setting: Setting) -> float:
        """Return the time of an image in forward passes where the first of the attacks fools the model.

        An image that withstands all of them takes about 12,000.
        """
        del setting
        return 312.0

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        return (
            'standard AutoAttack: APGD-CE, targeted APGD-DLR, targeted FAB and Square (5,000 queries) of pyautoattack, '
            f'L∞ (seed {setting.seed}, draws for each batch), {SPACE}'
        )


def _ensemble(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    generators: Sequence[torch.Generator],
    *,
    epsilon: float,
    seed: int,
) -> torch.Tensor:
    del generators
    return auto_attack(model, images, labels, epsilon, seed)
