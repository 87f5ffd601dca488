"""Updates that were not finite, computed again from what training saved of them.

timm-debias replay RUN/nonfinite-3-17-0.pt
"""

import argparse
import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models import clean_state_dict
from torch import nn

from ..checks import check_device
from ..errors import DebiasError
from ..flags import Parser
from ..log import setup_logging
from ..machine import Machine
from ..task import DebiasTask
from .checkpoint import ENTRY
from .config import TrainConfig
from .freeze import train_classifier
from .main import build_parser, config_from_args
from .model import build_model, build_task, resolve_input
from .precision import autocast_of
from .randomness import set_random_states
from .update_file import UPDATE, held_elsewhere, read_update

_MAX_NAMED = 5


@dataclass
class Replayed:
    """What came out of an update that was computed again.

    Attributes:
        losses: Loss of each of its batches.
        modules: Names of the modules whose output was not finite, in the order of the forward pass.
        gradients: Names of the parameters whose gradient is not finite.
        parameters: Number of parameters that have a gradient.
    """

    losses: list[float]
    modules: list[str]
    gradients: list[str]
    parameters: int

    @property
    def is_finite(self) -> bool:
        """Whether losses and gradients are finite."""
        return not self.gradients and all(map(math.isfinite, self.losses))


def replay(path: Path, device: str = 'cpu') -> Replayed:
    """Compute a saved update again, on the weights and with the random numbers that it had.

    Args:
        path: What `save_update` wrote.
        device: Where to compute.

    Raises:
        DebiasError: no such file, one that holds no update, or an update that took more than this file holds.
    """
    return _replay(path, read_update(path), device)


def _replay(path: Path, content: dict[str, Any], device: str) -> Replayed:
    # Flags that are newer than the file have their defaults.
    flags = vars(build_parser().parse_args([])) | vars(content['args'])
    config = config_from_args(argparse.Namespace(**flags))
    reason = held_elsewhere(config, content[UPDATE].get('processes', 1))
    if reason is not None:
        raise DebiasError(
            f'{path} cannot be computed again: {reason}; to find the cause, train in one process or without the flag'
        )
    machine = Machine(torch.device(device))
    task = _task(config, content, machine)
    module = task.get_trainable_module()
    train_classifier(module) if config.model.freeze_backbone else module.train()
    if isinstance(task, DebiasTask):
        task.set_position(content[ENTRY]['epoch'], content[ENTRY]['batch'])
    losses = []
    with _watched(module) as modules:
        for batch in content[UPDATE]['batches']:
            set_random_states(task, batch['random'], machine.device)
            with autocast_of(config, machine):
                loss = task(_to(batch['images'], machine), batch['target'].to(machine.device))['loss']
            (loss * batch['share'] * content[UPDATE]['scale']).backward()
            losses.append(loss.item())
    gradients = [(name, value.grad) for name, value in module.named_parameters() if value.grad is not None]
    bad = [name for name, gradient in gradients if not gradient.isfinite().all()]
    return Replayed(losses, list(dict.fromkeys(modules)), bad, len(gradients))


def main(argv: Sequence[str] | None = None) -> int:
    """Compute a saved update again and print what is not finite; return 0.

    Raises:
        DebiasError: as in `replay`.
    """
    setup_logging()
    parser = Parser(
        prog='timm-debias replay',
        description='Compute again an update whose loss or gradient was not finite, from the file that training saved.',
    )
    parser.add_argument('file', help='nonfinite-EPOCH-UPDATE-PROCESS.pt in the folder of a run')
    parser.add_argument('--device', default='cpu', help='where to compute')
    args = parser.parse_args(argv)
    check_device(args.device)
    path = Path(args.file)
    content = read_update(path)
    print(f'{path.name}: epoch {content[ENTRY]["epoch"]}, update {content[ENTRY]["batch"]}')
    for number, batch in enumerate(content[UPDATE]['batches']):
        _print_batch(number, batch)
    _print_replayed(_replay(path, content, args.device))
    return 0


def _print_batch(number: int, batch: dict[str, Any]) -> None:
    losses = ', '.join(f'{name} {value:g}' for name, value in batch['losses'].items())
    print(f'batch {number}: {len(batch["target"])} images; when it was saved: {losses}')
    for name, (low, high, bad) in batch['ranges'].items():
        print(f'  {name}: {low:g} to {high:g}, {bad} values not finite')
    for file in batch['files']:
        print(f'  {file}'.encode('utf-8', 'backslashreplace').decode())


def _print_replayed(replayed: Replayed) -> None:
    print(f'computed again: loss {", ".join(f"{loss:g}" for loss in replayed.losses)}')
    if replayed.modules:
        print(f'modules whose output is not finite: {_named(replayed.modules)}')
    print(
        f'gradients that are not finite: {len(replayed.gradients)} of {replayed.parameters}'
        + (f': {_named(replayed.gradients)}' if replayed.gradients else '')
    )
    if replayed.is_finite:
        print('Here everything is finite: the cause lies in the precision or the kernels of the device that trained.')


def _named(names: Sequence[str]) -> str:
    more = f' and {len(names) - _MAX_NAMED} more' if len(names) > _MAX_NAMED else ''
    return ', '.join(names[:_MAX_NAMED]) + more


def _task(config: TrainConfig, content: dict[str, Any], machine: Machine) -> Any:
    # The model's weights are in the file: none has to be fetched or read.
    model_config = replace(
        config.model, pretrained=False, pretrained_path=None, initial_checkpoint='', torchcompile=None
    )
    config = replace(config, model=model_config, device=replace(config.device, device=str(machine.device)))
    model = build_model(config, machine)
    input_config = resolve_input(config, model, verbose=False)
    task = build_task(config, model, input_config, config.model.num_classes or model.num_classes, machine)
    task.load_checkpoint_state(clean_state_dict(content['state_dict']), content.get('task_state'))
    return task


def _to(images: Any, machine: Machine) -> Any:
    if isinstance(images, dict):
        return {name: value.to(machine.device) for name, value in images.items()}
    return images.to(machine.device)


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Yield a list to which each forward pass adds the modules whose output is not finite."""
    names: list[str] = []

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and not output.isfinite().all():
            names.append(name)

    handles = [
        module.register_forward_hook(partial(note, name))
        for name, module in model.named_modules()
        if not any(module.children())
    ]
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()
