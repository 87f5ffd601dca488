"""Where this process runs."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from timm.utils import init_distributed_device


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
    place = SimpleNamespace(device=device)
    init_distributed_device(place)
    return Machine(torch.device(place.device), place.rank, place.world_size, place.distributed)
