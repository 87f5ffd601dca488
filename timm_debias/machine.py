"""Where this process runs."""

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from timm.utils import init_distributed_device

from .errors import DebiasError, reason


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


def import_device_modules(names: Sequence[str] | None) -> None:
    """Import the modules that make a device known to torch.

    Raises:
        DebiasError: one that cannot be imported.
    """
    for name in names or ():
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise DebiasError(f'--device-modules: {name} cannot be imported ({error})') from error


def init_machine(device: str) -> Machine:
    """Join the processes that torchrun or Slurm started, if any, and return this one's place.

    Raises:
        DebiasError: the processes cannot be joined, or there is no device for this one.
    """
    place = SimpleNamespace(device=device)
    try:
        init_distributed_device(place)
    except (RuntimeError, ValueError) as error:
        why = reason(error)[:200]
        advice = (
            'start them with torchrun or srun, one for each GPU, or one process without WORLD_SIZE and SLURM_NTASKS in '
            'its environment'
        )
        if os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') != '0':
            # https://github.com/pytorch/pytorch/issues/135712: restarted processes meet addresses of dead ones.
            advice = 'torchrun can start them again only with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment'
        message = f'the processes of this run cannot start together on {device} ({why}); {advice}'
        raise DebiasError(message) from error
    return Machine(torch.device(place.device), place.rank, place.world_size, place.distributed)
