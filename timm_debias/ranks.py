"""Work shared by the processes that torchrun started: values and errors of one are known to all.

Every process calls the same functions in the same order. An error of one is raised on all, so that none waits for a
process that has given up.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch.distributed as dist

from .errors import DebiasError
from .machine import Machine

Value = TypeVar('Value')

_logger = logging.getLogger(__name__)


def gather(machine: Machine, work: Callable[[], Value]) -> list[Value]:
    """Return what `work` returns on each process, by rank; the values must be picklable.

    Raises:
        DebiasError: the error of the first process on which `work` failed, on all of them.
    """
    if not machine.distributed:
        return [work()]
    value: Value | None = None
    failure: DebiasError | None = None
    try:
        value = work()
    except DebiasError as error:
        failure = error
    except Exception as error:  # Whatever it is, the others must not wait for this process.
        _logger.exception(f'Process {machine.rank} failed.')
        failure = DebiasError(f'process {machine.rank}: {type(error).__name__}: {error}')
    outcomes: list[Any] = [None] * machine.world_size
    dist.all_gather_object(outcomes, (value, failure), group=host_group(dist.group.WORLD))
    failures = [failure for _, failure in outcomes if failure is not None]
    if failures:
        raise failures[0]
    return [value for value, _ in outcomes]


def agree(machine: Machine, work: Callable[[], Value]) -> Value:
    """Return what `work` returns on this process, once it has succeeded on all.

    Raises:
        DebiasError: as in `gather`.
    """
    values: list[Value] = []
    gather(machine, lambda: values.append(work()))
    return values[0]


def on_primary(machine: Machine, work: Callable[[], Value]) -> Value:
    """Return, on all processes, what `work` returns on the first, the only one that does it: files, for example.

    Raises:
        DebiasError: as in `gather`.
    """
    value: Any = gather(machine, lambda: work() if machine.is_primary else None)[0]
    return value


@cache
def host_group(world: Any) -> Any:
    """Return the processes of `world`, joined over gloo whatever the device: for Python objects, and with patience.

    A process may wait long for others that read slower disks; one that is gone is noticed by torchrun.
    """
    del world
    return dist.new_group(backend='gloo', timeout=timedelta(days=1))
