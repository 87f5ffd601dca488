"""How well a step uses the device: arithmetic beside a large matrix product's; on CUDA, idle time and waiting."""

import warnings
from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile

from .steps import Setup
from .timing import Ratio, summary, time_in_turns

STEP = 3
"""A training step in forward passes: the backward pass computes the gradients of inputs and of weights."""

_PROFILED = 10
"""Calls in which kernels are recorded."""


def matmul_rate(setup: Setup, repeats: int) -> float:
    """Return multiply-adds a second of a large matrix product in the precision of the setup."""
    side = 8192 if setup.device.type == 'cuda' else 1536
    dtype = setup.amp_dtype or setup.model_dtype
    a, b = (torch.rand(side, side, device=setup.device).to(dtype) for _ in range(2))
    seconds = time_in_turns({'product': lambda: [a @ b for _ in range(5)]}, repeats, setup.device)['product']
    return 5 * side**3 / min(seconds)


def step_macs(model_macs: int, images: int, stylizer_macs: int = 0, stylised: int = 0) -> int:
    """Return the multiply-adds of a step on `images` images, of which `stylised` were stylised before."""
    return STEP * model_macs * images + stylizer_macs * stylised


def busy_share(call: Callable[[], object], device: torch.device) -> float:
    """Return the share of the time in which at least one kernel runs on the CUDA device."""
    call()
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(_PROFILED):
            call()
        torch.cuda.synchronize(device)
    kernels = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    return covered(kernels) / (max(end for _, end in kernels) - min(start for start, _ in kernels))


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, reached = 0.0, float('-inf')
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def host_waits(call: Callable[[], object]) -> int:
    """Return how often the host waits for the CUDA device in a call, by torch's synchronisation debug mode."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            call()
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return sum('synchroniz' in str(warning.message) for warning in caught)


def arithmetic_share(macs: int, seconds: list[float], rate: float) -> Ratio:
    """Return the multiply-adds a second of calls of `macs` each, as a share of `rate`."""
    return summary([macs / own / rate for own in seconds])
