"""Steps of a recipe on real photographs, on this machine: does it run, and how long would all of it take?

    python benchmarks/recipe_step.py -c hparams/resnet50.yaml --data-dir PHOTOS --device cpu -b 8

Takes the flags of train.py. Trains on the first batches of the folder, debiased at every size of the recipe and plain,
in turns, and prints a Markdown table. On a CPU it counts seconds of one thread's processor time, which other work on
the machine hardly changes; on an accelerator, seconds of the clock.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from timm_debias.benchmark.config import IMAGENET_IMAGES
from timm_debias.flags import Parser, parse_with_yaml
from timm_debias.machine import Machine, init_machine
from timm_debias.markdown import table_lines
from timm_debias.task import DebiasTask
from timm_debias.training.checks import check_config
from timm_debias.training.config import TrainConfig
from timm_debias.training.data import build_datasets, build_train_loader
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.model import build_model, build_task, resolve_input
from timm_debias.training.optim import build_optimizer, lr_stage_ends, resolve_lr

Step = Callable[[torch.Tensor, torch.Tensor, int, int], float]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the recipe that the flags name and print the table."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument('--repeats', type=int, default=2)
    options, rest = own.parse_known_args(argv)
    parser: Parser = build_parser()
    config = config_from_args(parse_with_yaml(parser, rest))
    check_config(config)
    machine = init_machine(config.device.device)
    if machine.device.type == 'cpu':
        torch.set_num_threads(1)
    print(measure(config, machine, options.repeats))


def measure(config: TrainConfig, machine: Machine, repeats: int) -> str:
    """Return the table: seconds a step at each size of the stylised images, and of a plain step."""
    positions = _positions(config)
    steps = {'debiased': build_step(config, machine)}
    steps['plain'] = build_step(replace(config, debias=replace(config.debias, debias=False)), machine)
    batches = load_batches(config, machine, 1 + repeats * len(positions))
    for step in steps.values():
        step(*batches[0], *positions[0])  # Warms up.
    seconds: dict[tuple[int, int], list[float]] = {position: [] for position in positions}
    plain: list[float] = []
    for number, batch in enumerate(batches[1:]):
        position = positions[number % len(positions)]
        plain.append(steps['plain'](*batch, *position))
        seconds[position].append(steps['debiased'](*batch, *position))
    return _table(config, seconds, plain)


def build_step(config: TrainConfig, machine: Machine) -> Step:
    """Return a function that takes one step of training and returns its seconds."""
    torch.manual_seed(config.run.seed)
    model = build_model(config, machine)
    task = build_task(config, model, resolve_input(config, model, verbose=False), model.num_classes, machine)
    optimizer = build_optimizer(resolve_lr(config, config.model.batch_size, machine), model)

    clock = time.process_time if machine.device.type == 'cpu' else time.perf_counter

    def step(images: torch.Tensor, labels: torch.Tensor, epoch: int, update: int) -> float:
        start = clock()
        if isinstance(task, DebiasTask):
            task.set_position(epoch, update)
        optimizer.zero_grad()
        loss = task.train()(images, labels)['loss']
        loss.backward()
        optimizer.step()
        if not loss.isfinite():  # Waits for the device, too.
            sys.exit(f'the loss is {loss.item()}')
        return clock() - start

    return step


def load_batches(config: TrainConfig, machine: Machine, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the first batches of the training images, augmented as the recipe says."""
    model = build_model(config, machine)
    input_config = resolve_input(config, model, verbose=False)
    dataset, _ = build_datasets(config, input_config, model.num_classes)
    loader, _ = build_train_loader(config, dataset, model, input_config, model.num_classes, machine)
    return [(images, labels) for (images, labels), _ in zip(loader, range(count), strict=False)]


def _positions(config: TrainConfig) -> list[tuple[int, int]]:
    """Return an epoch and update of each size: both halves of the first stage, even and odd."""
    if not config.debias.debias_multi_grid:
        return [(0, 0)]
    later = int(lr_stage_ends(config)[0]) - 1
    return [(epoch, update) for epoch in (0, later) for update in (0, 1)]


def _table(config: TrainConfig, seconds: dict[tuple[int, int], list[float]], plain: list[float]) -> str:
    batch = config.model.batch_size
    medians = {position: statistics.median(values) for position, values in seconds.items()}
    debiased, base = statistics.mean(medians.values()), statistics.median(plain)
    steps = {'plain': base}
    for (epoch, update), value in medians.items():
        steps[f'debiased, epoch {epoch}, {"odd" if update else "even"} update'] = value
    steps['debiased, mean'] = debiased
    rows = [(name, f'{value:.2f}', f'{value / base:.2f}') for name, value in steps.items()]
    hours = {name: IMAGENET_IMAGES / batch * config.schedule.epochs * value / 3600
             for name, value in (('plain', base), ('debiased', debiased))}  # fmt: skip
    sentence = (
        f'{batch} images a step. All {config.schedule.epochs} epochs of ImageNet at this speed: '
        f'{hours["debiased"]:,.0f} hours, plain {hours["plain"]:,.0f}.'
    )
    return '\n'.join([*table_lines(('step', 'seconds', 'of a plain step'), rows), '', sentence])


if __name__ == '__main__':
    main()
