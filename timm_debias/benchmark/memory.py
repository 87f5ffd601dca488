"""Peak memory of a call."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Return by how many bytes the tensors that torch holds grow at most during `call`.

    On CUDA its allocator says it; on a CPU, torch's profiler records every allocation. What libraries take for
    themselves (oneDNN's scratch, cuDNN's workspaces beyond torch's allocator) is not seen. What the call frees should
    be its own.
    """
    if device.type == 'cpu':
        return _profiled_peak(call)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _profiled_peak(call: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / 'trace.json'
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding='utf-8'))['traceEvents']
    held = peak = 0
    for event in sorted((event for event in events if event.get('name') == '[memory]'), key=lambda event: event['ts']):
        held += event['args']['Bytes']
        peak = max(peak, held)
    return peak
