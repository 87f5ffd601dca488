"""Where this process runs."""

from dataclasses import dataclass

import torch
from timm.utils import init_distributed_device_so


@dataclass(frozen=True)
class Machine:
    """Where this process runs: its device and its place among the processes of the run."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    distributed: bool = False

    @property
    def is_primary(self) -> bool:
        """Whether this process writes logs and files."""
        return self.rank == 0


def init_machine(device: str) -> Machine:
    """Join the processes that torchrun or Slurm started, if any, and return this one's place."""
    result = init_distributed_device_so(device)
    return Machine(torch.device(result['device']), result['global_rank'], result['world_size'], result['distributed'])
