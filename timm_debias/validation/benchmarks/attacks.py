"""Adversarial attacks on ImageNet's validation images."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch

from .. import attacks
from ..scores import State, TopK
from .base import Attack, Benchmark, Contents, Part, Setting, Summary
from .classes import imagenet_classes
from .imagenet import summarize_top_k
from .layout import Listing, read_class_folders
from .registry import register_benchmark
from .subset import SubsetReader

_IMAGES = 50_000
SPACE = (
    'in pixel space [0, 1] after the crop, normalisation in the model, true classes, float32; epsilon in units of '
    '1/255; an attack that fails proves no robustness'
)


class AttackBenchmark(Benchmark):
    """Top-1 and top-5 under an attack, for one or several epsilons."""

    needs = ('imagenet',)
    layout = 'that of imagenet'
    num_images: ClassVar[int | None] = _IMAGES
    metric = 'top-1 under attack, by epsilon'
    flags: ClassVar[tuple[str, ...]] = ('subset', 'epsilons')
    default_epsilons: ClassVar[tuple[float, ...]] = (16.0,)

    @abstractmethod
    def attack(self, epsilon: float, setting: Setting) -> Attack:
        """Return the attack with `epsilon` in units of 1/255."""

    def cost(self, setting: Setting) -> float:
        """Return the time of an image in forward passes: a gradient counts as three, the final decision as one."""
        del setting
        return 4.0

    def contents(self, roots: Mapping[str, Path], setting: Setting) -> Contents:
        """Return a part for each epsilon."""
        reader = SubsetReader(setting)
        listing = reader.reduce(self.listing(roots, setting, reader.allow_partial), self.name)
        images, targets = listing.images(), listing.targets()
        parts = [
            Part(
                f'{self.name}/eps{epsilon:g}', images, targets, TopK, self.attack(epsilon, setting), self.cost(setting)
            )
            for epsilon in setting.suite.epsilons or self.default_epsilons
        ]
        return Contents(parts, listing.partial, reader.subset, reader.notes)

    def listing(self, roots: Mapping[str, Path], setting: Setting, allow_partial: bool) -> Listing:
        """Return the images to attack, before `--subset`; some may be missing with `allow_partial`."""
        del setting
        return read_class_folders(roots['imagenet'], imagenet_classes(), _IMAGES, self.name, allow_partial)

    def summarize(self, states: Mapping[str, State], measured: Mapping[str, Summary]) -> Summary:
        """Return a curve of accuracies by epsilon."""
        del measured
        curve, headline = [], {}
        for part_name, state in states.items():
            epsilon = float(part_name.rpartition('/eps')[2])
            accuracies = summarize_top_k(state).metrics
            curve.append({'epsilon': epsilon, 'images': state['images']} | accuracies)
            headline[f'top1_eps{epsilon:g}'] = accuracies['top1']
        return Summary({'curve': curve}, headline)


@register_benchmark
class Fgsm(AttackBenchmark):
    """One step along the sign of the gradient of the cross-entropy."""

    name = 'fgsm'
    source = 'Goodfellow et al., ICLR 2015'

    def attack(self, epsilon: float, setting: Setting) -> Attack:
        """Return FGSM."""
        del setting
        return partial(_single_step, attacks.fgsm, epsilon / 255)

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        del setting
        return f'FGSM on the cross-entropy, no random start, {SPACE}'


@register_benchmark
class FgsmRef(AttackBenchmark):
    """The attack of the reference implementation, for comparison with its paper alone."""

    name = 'fgsm-ref'
    source = 'Li et al., ICLR 2021'

    def attack(self, epsilon: float, setting: Setting) -> Attack:
        """Return the reference's FGSM."""
        del setting
        return partial(_single_step, attacks.fgsm_ref, epsilon / 255)

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        del setting
        return f'FGSM on the negative logit of the class, as the reference implementation has it, {SPACE}'


@register_benchmark
class Pgd(AttackBenchmark):
    """Projected gradient ascent on the cross-entropy from random starts."""

    name = 'pgd'
    source = 'Madry et al., ICLR 2018'
    flags = (*AttackBenchmark.flags, 'pgd_steps', 'pgd_step_size', 'pgd_restarts')
    default_epsilons = (4.0,)

    def attack(self, epsilon: float, setting: Setting) -> Attack:
        """Return PGD."""
        suite = setting.suite
        size = suite.pgd_step_size
        return partial(
            _many_steps,
            epsilon=epsilon / 255,
            steps=suite.pgd_steps,
            step_size=(2.5 * epsilon / suite.pgd_steps if size is None else size) / 255,
            restarts=suite.pgd_restarts,
        )

    def cost(self, setting: Setting) -> float:
        """Return the time of an image in forward passes."""
        return setting.suite.pgd_restarts * (3.0 * setting.suite.pgd_steps + 1) + 1

    def protocol(self, setting: Setting) -> str:
        """Return the protocol."""
        suite = setting.suite
        size = '2.5 · epsilon / steps' if suite.pgd_step_size is None else f'{suite.pgd_step_size:g}/255'
        return (
            f'PGD on the cross-entropy, {suite.pgd_steps} steps of size {size}, random starts: {suite.pgd_restarts} '
            f'(seed {setting.seed}, draws of its own for each image), {SPACE}'
        )


def _single_step(
    attack: Callable[[attacks.Model, torch.Tensor, torch.Tensor, float], torch.Tensor],
    epsilon: float,
    model: attacks.Model,
    images: torch.Tensor,
    labels: torch.Tensor,
    generators: Sequence[torch.Generator],
) -> torch.Tensor:
    del generators
    return attack(model, images, labels, epsilon)


def _many_steps(
    model: attacks.Model,
    images: torch.Tensor,
    labels: torch.Tensor,
    generators: Sequence[torch.Generator],
    *,
    epsilon: float,
    steps: int,
    step_size: float,
    restarts: int,
) -> torch.Tensor:
    return attacks.pgd(model, images, labels, epsilon, steps, step_size, restarts, generators)
