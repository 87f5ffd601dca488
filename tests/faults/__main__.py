"""The command of the fault campaign."""

import argparse
import itertools
import logging
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from processes import launch

from timm_debias.cli import main as timm_debias

from .killing import at_a_call, at_a_moment, count_calls
from .operations import Operation, half_written, operations

KILLS_IN_A_ROW = 3
"""Times that a command is killed before it may end."""


@dataclass
class Tally:
    """What was done to an operation, and what was found."""

    faults: int = 0
    compared: int = 0
    problems: list[str] = field(default_factory=list)


class Campaign:
    """Kills one operation as often as it says.

    Args:
        operation: What is killed.
        folder: For results and logs.
        seed: Of moments and calls.
    """

    def __init__(self, operation: Operation, folder: Path, seed: int) -> None:
        self.operation = operation
        self.folder = folder
        self.chosen = random.Random(f'{seed} {operation.name}')
        self.logs = (folder / 'logs' / str(number) for number in itertools.count())
        self.tally = Tally()

    def run(self) -> Tally:
        """Run the operation undisturbed, then killed in many ways; return what was found."""
        operation = self.operation
        start = time.monotonic()
        self._finish(self.folder / 'whole')
        seconds = time.monotonic() - start
        calls = 0
        if operation.calls:
            _, calls = count_calls(self._target(self.folder / 'counted'), operation.places, next(self.logs))
        ways = [None] * operation.moments + [calls] * operation.calls
        self.chosen.shuffle(ways)
        for number, start_of_row in enumerate(range(0, len(ways), KILLS_IN_A_ROW)):
            output = self.folder / f'killed-{number}'
            for limit in ways[start_of_row : start_of_row + KILLS_IN_A_ROW]:
                self._kill(output, seconds, limit)
            self._finish(output)
            self._compare(output)
        return self.tally

    def _kill(self, output: Path, seconds: float, calls: int | None) -> None:
        target, log = self._target(output), next(self.logs)
        if calls is None:
            moment = self.chosen.uniform(0, seconds)
            killed = at_a_moment(target, self.operation.world_size, log, moment, self.chosen)
            while not killed:  # It was faster than undisturbed.
                moment /= 2
                killed = at_a_moment(target, self.operation.world_size, next(self.logs), moment, self.chosen)
        else:
            killed = at_a_call(target, self.operation.places, log, self.chosen.randrange(1, calls + 1))
        self.tally.faults += killed
        self.tally.problems += [f'half-written: {problem}' for problem in half_written(output)]

    def _finish(self, output: Path) -> None:
        for ended in launch(self._target(output), self.operation.world_size, next(self.logs)):
            if ended.code:
                raise SystemExit(f'{self.operation.name} ends with code {ended.code}:\n{ended.err}')

    def _compare(self, output: Path) -> None:
        self.tally.compared += 1
        try:
            self.operation.compare(self.folder / 'whole', output)
        except AssertionError as difference:
            self.tally.problems.append(f'different: {output}: {difference}')

    def _target(self, output: Path):
        argv = self.operation.command(output)
        return lambda: timm_debias(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the campaign; the exit code is 1 where anything was half-written or different."""
    parser = argparse.ArgumentParser(prog='python -m tests.faults', description=__doc__)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', default='', metavar='TEXT', help='operations with this in their name')
    parser.add_argument('--kills', type=int, default=100, metavar='N', help='at most, of each operation and kind')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # Threads do not survive the forks.
    logging.getLogger().setLevel(logging.WARNING)
    total = Tally()
    with tempfile.TemporaryDirectory() as place:
        chosen = [operation for operation in operations(Path(place) / 'inputs') if args.only in operation.name]
        for number, operation in enumerate(chosen):
            start = time.monotonic()
            kinds = {kind: min(getattr(operation, kind), args.kills) for kind in ('moments', 'calls')}
            tally = Campaign(replace(operation, **kinds), Path(place) / str(number), args.seed).run()
            print(f'{operation.name}: {tally.faults} faults, {tally.compared} runs compared, '
                  f'{len(tally.problems)} differences, {time.monotonic() - start:.0f} s', flush=True)  # fmt: skip
            total.faults += tally.faults
            total.compared += tally.compared
            total.problems += tally.problems
    print(*total.problems, sep='\n', end='\n' if total.problems else '')
    print(f'Faults injected: {total.faults}, runs compared: {total.compared}, differences: {len(total.problems)}')
    return 1 if total.problems or not total.faults else 0


if __name__ == '__main__':
    sys.exit(main())
