"""What a stylizer costs: parameters, multiplications, and time beside a training step."""

import statistics
import time
from collections.abc import Callable, Mapping

import timm
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ..stylizers import Stylizer

IMG_SIZE = 224
_STEP = 'resnet50'


def count_parameters(stylizer: Stylizer) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in stylizer.parameters())


@torch.no_grad()
def count_macs(stylizer: Stylizer, img_size: int = IMG_SIZE) -> int:
    """Return the multiply-adds of convolutions and products for one image [3, img_size, img_size], encoded once."""
    image = torch.zeros(1, 3, img_size, img_size)
    with FlopCounterMode(display=False) as counter:
        stylizer.mix(image, torch.tensor([0]), 1.0)
    return counter.get_total_flops() // 2


def time_stylizers(
    stylizers: Mapping[str, Stylizer], batch_size: int = 8, repeats: int = 5
) -> dict[str, dict[str, float]]:
    """Time each stylizer and a plain training step of ResNet-50 on the same images, in turns, on the CPU.

    Returns:
        For each stylizer `ms`, the median over repeats in milliseconds an image, `ratio`, the median over repeats of
        its time divided by that of the step of the same turn, and `spread`, half the range of those ratios.
    """
    images = torch.rand(batch_size, 3, IMG_SIZE, IMG_SIZE, generator=torch.Generator().manual_seed(0))
    partners = torch.arange(batch_size).roll(1)
    step = _training_step(images)
    seconds: dict[str, list[float]] = {name: [] for name in stylizers}
    ratios: dict[str, list[float]] = {name: [] for name in stylizers}
    for turn in range(repeats + 1):  # The first turn warms up.
        base = _seconds(step)
        for name, stylizer in stylizers.items():
            with torch.no_grad():
                own = _seconds(lambda stylizer=stylizer: stylizer.mix(images, partners, 0.5))  # type: ignore[misc]
            if turn:
                seconds[name].append(own)
                ratios[name].append(own / base)
    return {
        name: {
            'ms': 1000 * statistics.median(seconds[name]) / batch_size,
            'ratio': statistics.median(ratios[name]),
            'spread': (max(ratios[name]) - min(ratios[name])) / 2,
        }
        for name in stylizers
    }


def _training_step(images: torch.Tensor) -> Callable[[], None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(_STEP).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    target = torch.arange(len(images))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), target).backward()
        optimizer.step()

    return step


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
