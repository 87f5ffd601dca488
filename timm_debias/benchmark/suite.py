"""The rows of a measurement: what each part of a debiased step costs beside timm's plain step."""

import logging
import os
import platform
from collections.abc import Iterable, Mapping
from operator import mul
from typing import Any, NamedTuple

import timm
import torch

from ..errors import DebiasError
from ..multi_grid import MultiGrid
from ..stylizers import Stylizer, create_stylizer, list_stylizers
from ..stylizers.adain_vgg19 import AdainVgg19
from .cost_model import size_shares
from .device_use import arithmetic_share, busy_share, host_waits, matmul_rate, step_macs
from .loading import measure_loading
from .memory import peak_bytes
from .reference import reference_step
from .results import Row
from .size import count_macs, model_size
from .steps import DebiasedModel, PlainModel, Setup, Step, rest_step, stylise_call
from .timing import ratio_of, summary, time_in_turns

_logger = logging.getLogger(__name__)

PLAIN_STEPS = 'plain steps'
TARGET_STYLIZER = 'adain_lite'
_LIMITS = {
    f'debiased step, {TARGET_STYLIZER}': {'cpu': 2.3, 'cuda': 2.2},
    f'debiased step, {TARGET_STYLIZER}, multi-grid': {'cpu': 1.7, 'cuda': 1.6},
    'auxiliary batch norm': {'cpu': 1.05, 'cuda': 1.03},
    'rest of the debiased step': {'cpu': 0.02, 'cuda': 0.02},
    f'stylisation, {TARGET_STYLIZER}': {'cpu': 0.15},
    'stylisation, adain_vgg19': {'cpu': 1.3},
    'peak memory': {'cpu': 1.1, 'cuda': 1.1},
    'data loading': {'cpu': 0.95, 'cuda': 0.95},
    'device busy': {'cuda': 0.95},
    'waits of the host': {'cuda': 0.0},
}
"""Row -> device -> what it must reach; see `has_targets`."""


class Measurement(NamedTuple):
    """Rows, and the seconds and images a second that they came from."""

    rows: list[Row]
    seconds: dict[str, float]
    images_per_second: dict[str, float]


def has_targets(setup: Setup) -> bool:
    """Whether the targets are meant for this setup.

    They are for ResNet-50 at 224 pixels: on a CPU 8 clean images in float32, on CUDA compiled, in bfloat16 and
    channels_last layout.
    """
    if (setup.model, setup.img_size) != ('resnet50', 224):
        return False
    lower = setup.amp_dtype or setup.model_dtype
    if setup.device.type == 'cpu':
        return setup.batch_size == 8 and lower == torch.float32
    return lower == torch.bfloat16 and setup.channels_last and setup.torchcompile is not None


def measure_steps(setup: Setup, stylizers: Mapping[str, Stylizer], repeats: int, is_suite: bool) -> Measurement:
    """Time the plain step and the debiased one, whole and in parts, in turns.

    Args:
        setup: What to measure with.
        stylizers: Those that whole steps are measured with; the first one's is looked at more closely.
        repeats: Turns.
        is_suite: Measure all that has a target, further stylizers and the reference's step.

    Raises:
        DebiasError: the model cannot be created, or does not take images of the setup's size.
    """
    size, n = model_size(setup.model, setup.img_size), setup.batch_size
    shares = _multi_grid_shares(setup)
    steps = _steps(setup, stylizers, shares)
    if is_suite:
        steps |= _suite_steps(setup)
    shown = {**every_stylizer(), **stylizers} if is_suite else stylizers
    stylisations = {f'stylisation, {name}': stylise_call(setup, stylizer) for name, stylizer in shown.items()}
    seconds = time_in_turns({**steps, **stylisations}, repeats, setup.device)
    rows = _rows(seconds)
    rows += _multi_grid_rows(seconds, stylizers, shares)
    whole = f'debiased step, {next(iter(stylizers))}'
    rows.append(_memory_row(setup, steps[whole], steps['plain step, 2n images']))
    if setup.device.type == 'cuda':
        rows += _cuda_rows(setup, steps[whole])
    rows += _arithmetic_rows(setup, size.macs, stylizers, seconds, repeats)
    medians = {name: summary(values).median for name, values in seconds.items()}
    speeds = {name: n / medians[name] for name in ('plain step', whole)}
    return Measurement(_with_limits(setup, rows), medians, speeds)


def _steps(setup: Setup, stylizers: Mapping[str, Stylizer], sides: Iterable[int]) -> dict[str, Step]:
    plain, debiased = PlainModel(setup), DebiasedModel(setup)
    n = setup.batch_size
    steps = {'plain step': plain.step(n), 'plain step, 2n images': plain.step(2 * n)}
    steps['classify'] = debiased.classify_step()
    for name, stylizer in stylizers.items():
        steps[f'debiased step, {name}'] = debiased.step(stylizer)
        for side in sides:
            steps[f'debiased step, {name}, stylised at {side}'] = debiased.step(stylizer, side)
    return steps


def _suite_steps(setup: Setup) -> dict[str, Step]:
    steps = {'rest of the debiased step': rest_step(setup)}
    reference = reference_step(setup)
    if reference is None:
        _logger.info(f'{setup.model} has none of the batch norms that the reference splits: no row for its step.')
    else:
        steps["reference's step"] = reference
    return steps


def _multi_grid_shares(setup: Setup) -> dict[int, float]:
    """Return the sides of multi-grid with the share of updates of each; nothing for a model that does not take them."""
    shares = size_shares(MultiGrid((2,)), setup.img_size, epochs=2)
    try:
        for side in shares:
            model_size(setup.model, side)
    except DebiasError as error:
        _logger.info(f'No rows for multi-grid: {error}')
        return {}
    return shares


def loading_rows(setup: Setup, repeats: int) -> list[Row]:
    """Measure data loading, with as many processes as there are cores."""
    found = measure_loading(setup, os.cpu_count() or 1, repeats)
    rows = [
        Row.of('data loading', "of timm's images a second", found['loading'], at_least=True),
        Row.of('JPEG decoding, torchvision', "of Pillow's images a second", found['decoding'], at_least=True),
    ]
    return _with_limits(setup, rows)


def settings_of(setup: Setup, repeats: int) -> dict[str, Any]:
    """Return what a result depends on."""
    on_cuda = setup.device.type == 'cuda'
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
    cpu = platform.processor() or platform.machine()
    return {
        'model': setup.model,
        'img_size': setup.img_size,
        'batch_size': setup.batch_size,
        'device': setup.device.type,
        'device_name': torch.cuda.get_device_name(setup.device) if on_cuda else cpu,
        'threads': torch.get_num_threads(),
        'load_average': load,
        'precision': precision_name(setup),
        'channels_last': setup.channels_last,
        'torchcompile': setup.torchcompile,
        'repeats': repeats,
        'torch': torch.__version__,
        'timm': timm.__version__,
    }


def precision_name(setup: Setup) -> str:
    """Return the precision in words."""
    dtype = str(setup.amp_dtype or setup.model_dtype).removeprefix('torch.')
    return dtype if setup.amp_dtype is None else f'amp {dtype}'


def _rows(seconds: Mapping[str, list[float]]) -> list[Row]:
    rows = []
    for name, own in seconds.items():
        if name == 'classify':
            ratio = ratio_of(own, seconds['plain step, 2n images'])
            rows.append(Row.of('auxiliary batch norm', 'plain steps on 2n images', ratio))
        elif name != 'plain step':
            rows.append(Row.of(name, PLAIN_STEPS, ratio_of(own, seconds['plain step'])))
    return rows


def _multi_grid_rows(
    seconds: Mapping[str, list[float]], stylizers: Iterable[str], shares: Mapping[int, float]
) -> list[Row]:
    rows = []
    for name in stylizers if shares else ():
        at_sides = [seconds[f'debiased step, {name}, stylised at {side}'] for side in shares]
        means = [sum(map(mul, shares.values(), turn)) for turn in zip(*at_sides, strict=True)]
        rows.append(Row.of(f'debiased step, {name}, multi-grid', PLAIN_STEPS, ratio_of(means, seconds['plain step'])))
    return rows


def _memory_row(setup: Setup, debiased: Step, plain: Step) -> Row:
    ours, theirs = (peak_bytes(step, setup.device) + step.held_bytes() for step in (debiased, plain))
    return Row.of('peak memory', 'of a plain step on 2n images', summary([ours / theirs]))


def _cuda_rows(setup: Setup, step: Step) -> list[Row]:
    return [
        Row.of('device busy', 'of the time', summary([busy_share(step, setup.device)]), at_least=True),
        Row.of('waits of the host', 'a step', summary([float(host_waits(step))])),
    ]


def _arithmetic_rows(
    setup: Setup,
    macs: int,
    stylizers: Mapping[str, Stylizer],
    seconds: Mapping[str, list[float]],
    repeats: int,
) -> list[Row]:
    rate = matmul_rate(setup, repeats)
    n = setup.batch_size
    counts = {'plain step': step_macs(macs, n)}
    for name, stylizer in stylizers.items():
        own = count_macs(stylizer, setup.img_size)
        counts[f'debiased step, {name}'] = step_macs(macs, 2 * n, own, n)
    unit = "of a large matrix product's"
    return [
        Row.of(f'arithmetic a second, {name}', unit, arithmetic_share(count, seconds[name], rate), at_least=True)
        for name, count in counts.items()
    ]


def every_stylizer() -> dict[str, Stylizer]:
    """Return all registered stylizers, that of the paper with random weights, which take the same time."""
    return {
        name: AdainVgg19().eval().requires_grad_(False) if name == 'adain_vgg19' else create_stylizer(name)
        for name in list_stylizers()
    }


def _with_limits(setup: Setup, rows: list[Row]) -> list[Row]:
    if not has_targets(setup):
        return rows
    kind = setup.device.type
    return [Row(**{**vars(row), 'limit': _LIMITS.get(row.name, {}).get(kind)}) for row in rows]
