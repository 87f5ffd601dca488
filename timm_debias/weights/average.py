"""The command `timm-debias average`: the mean of the weights of several checkpoints of one run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..errors import DebiasError
from ..files import atomic_path, check_output
from ..flags import Parser, add_flags, config_from, flag
from ..log import setup_logging
from ..weight_files import StateDict, difference
from .checkpoints import Checkpoint, read_checkpoint

_logger = logging.getLogger(__name__)

_PATTERN = 'checkpoint-*.pth.tar'
"""Checkpoints of a run, the best by timm's count; model_best and last are among them under other names."""

_BEST = 5


@dataclass(frozen=True)
class AverageConfig:
    """Average checkpoints"""

    checkpoints: list[str] = flag(
        [], 'files, or the folder of a run, of which the best checkpoints are taken', 'checkpoints', nargs='+',
        metavar='PATH',
    )  # fmt: skip
    output: str = flag('', 'file to write, .safetensors', metavar='FILE')
    best: int | None = flag(None, f'checkpoints to take of a run, {_BEST} if not given', '-n', '--best', type=int,
                            metavar='N')  # fmt: skip
    ascending: bool = flag(False, 'of a run, the lowest metric is best, as with --eval-metric loss')
    use_ema: bool = flag(False, 'take the moving averages of the weights')
    overwrite: bool = flag(False, 'write over a file that is there')


def main(argv: Sequence[str] | None = None) -> int:
    """Average checkpoints as the flags say; returns the exit code.

    Raises:
        DebiasError: a mistake in the flags, or checkpoints that do not belong together; nothing is written then.
    """
    setup_logging()
    parser = Parser(
        prog='timm-debias average',
        description='Write the mean of the weights of checkpoints (Izmailov et al., "Averaging Weights Leads to '
        'Wider Optima", UAI 2018). Batch norm statistics are averaged too; auxiliary batch norm is left out.',
    )
    add_flags(parser, AverageConfig)
    config = config_from(AverageConfig, parser.parse_args(argv))
    output = Path(config.output)
    if output.suffix != '.safetensors':
        raise DebiasError(f"--output '{config.output}': expected a file that ends in .safetensors")
    if output.exists() and not config.overwrite:
        raise DebiasError(f'{output} exists; choose another --output or give --overwrite')
    check_output(output.parent)
    checkpoints = _read(config)
    state = average([checkpoint.state for checkpoint in checkpoints], [str(item.path) for item in checkpoints])
    with atomic_path(output) as temporary:
        save_file(state, temporary, metadata={'format': 'pt'})
    print(f'Mean of {len(checkpoints)} checkpoints: {output}')
    return 0


def _read(config: AverageConfig) -> list[Checkpoint]:
    paths = [Path(path) for path in config.checkpoints]
    missing = next((path for path in paths if not path.exists()), None)
    if missing is not None:
        raise DebiasError(f'{missing}: no such file or folder')
    is_run = len(paths) == 1 and paths[0].is_dir()
    if not is_run and (config.best is not None or config.ascending):
        name = '--ascending' if config.best is None else '-n/--best'
        raise DebiasError(f'{name} chooses among the checkpoints of one run; give its folder, or leave {name} out')
    if config.best is not None and config.best < 2:
        raise DebiasError(f'-n/--best {config.best}: an average needs at least 2 checkpoints')
    if is_run:
        paths = sorted(paths[0].glob(_PATTERN))
    if len({path.resolve() for path in paths}) < len(paths):
        raise DebiasError('a checkpoint is given twice')
    checkpoints = [read_checkpoint(path, config.use_ema) for path in paths]
    if is_run:
        checkpoints = _best(checkpoints, config)
    if len(checkpoints) < 2:
        where = f'{config.checkpoints[0]} has {len(checkpoints)}' if is_run else 'found one'
        raise DebiasError(f'an average needs at least 2 checkpoints; {where}')
    return checkpoints


def _best(checkpoints: list[Checkpoint], config: AverageConfig) -> list[Checkpoint]:
    unranked = [str(checkpoint.path) for checkpoint in checkpoints if checkpoint.metric is None]
    if unranked:
        raise DebiasError(f'{unranked[0]} has no metric to rank it by; name the files to average')
    ranked = sorted(checkpoints, key=lambda item: item.metric or 0.0, reverse=not config.ascending)
    ranked = ranked[: config.best or _BEST]
    for checkpoint in ranked:
        _logger.info(f'{checkpoint.path}: {checkpoint.metric:.4g}')
    return ranked


def average(states: Sequence[StateDict], names: Sequence[str]) -> StateDict:
    """Return the mean of state dicts, summed in float64; numbers of batches are those of the first.

    Args:
        states: State dicts of one network.
        names: What each is called in an error.

    Raises:
        DebiasError: names the first key in which two of them differ in kind.
    """
    for state, name in zip(states[1:], names[1:], strict=True):
        reason = difference(state, states[0])
        if reason is not None:
            raise DebiasError(f'{name}: {reason}; not of the same network as {names[0]}')
    mean = {}
    for key, first in states[0].items():
        if first.is_floating_point():
            total = torch.stack([state[key].double() for state in states]).mean(dim=0)
            mean[key] = total.to(first.dtype)
        else:
            mean[key] = first.clone()
    return mean
