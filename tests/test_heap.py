"""Pages that the kernel clears when large tensors come and go, as it counts them, in processes of their own."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from timm_debias.training.heap import keep_freed_memory
if sys.argv[1] == 'keep':
    assert keep_freed_memory()
step = lambda: torch.ones(64 << 18).sum()  # 64 MiB: 16384 pages of 4 KiB
for _ in range(3):  # Until there is a place for the tensor between all else.
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    run = subprocess.run([sys.executable, '-c', SCRIPT, how], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='glibc alone has mallopt')
def test_memory_is_mapped_once():
    """Once or twice, where something else has come into its place, and not in each of 20 steps."""
    assert faults('keep') < faults('leave') / 10
