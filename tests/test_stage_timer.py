"""Time in a stage, by clocks and events that the test sets."""

import pytest
import torch

from timm_debias.training import stage_timer
from timm_debias.training.stage_timer import StageTimer


def test_on_the_cpu(monkeypatch):
    clock = iter([1.0, 1.5, 10.0, 12.0, 20.0, 20.25])
    monkeypatch.setattr(stage_timer.time, 'perf_counter', lambda: next(clock))
    timer = StageTimer(torch.device('cpu'))
    for _ in range(2):
        with timer:
            pass
    assert timer.take() == 2.5
    with timer:
        pass
    assert timer.take() == 0.25
    assert timer.take() == 0


def test_on_cuda_the_host_waits_in_take_alone(monkeypatch):
    """By a stand-in for CUDA's events, which come to pass when the host waits for them."""
    waits, times = [], iter([0.0, 3.0, 5.0, 12.0])  # Milliseconds.

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.time, self.stream = next(times), stream

        def synchronize(self):
            waits.append(self.time)

        def elapsed_time(self, other):
            assert waits, 'read before the device has come to it'
            return other.time - self.time

    monkeypatch.setattr(torch.cuda, 'Event', Event)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: device)
    timer = StageTimer(torch.device('cuda', 0))
    for _ in range(2):
        with timer:
            pass
    assert waits == []
    assert timer.take() == pytest.approx((3.0 + 7.0) / 1000)
    assert waits == [12.0]
    assert timer.take() == 0


def test_devices():
    assert [StageTimer.supports(torch.device(kind)) for kind in ('cpu', 'cuda', 'mps')] == [True, True, False]
