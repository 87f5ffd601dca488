"""The console script `timm-debias`: one subcommand a task."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from . import __version__
from .errors import DebiasError, did_you_mean
from .escaping import one_line

COMMANDS = {
    'train': ('timm_debias.training.main', 'train a timm model, with --debias on stylised images too'),
    'submit': ('timm_debias.slurm', 'submit a training run as a Slurm job that goes on after preemption'),
    'run': ('timm_debias.run_script', "run a copy of timm's own train.py with debiasing plugged in"),
    'replay': ('timm_debias.training.replay', 'compute again an update whose loss or gradient was not finite'),
    'validate': ('timm_debias.validation.main', 'measure accuracy, robustness and shape bias of a timm model'),
    'compare': ('timm_debias.compare', 'compare two models on the same images, by a paired test'),
    'report': ('timm_debias.report.main', 'show the results of many models as one HTML page, with plots'),
    'study': ('timm_debias.study.main', 'train and measure a grid of methods and seeds, and report on them'),
    'draw': ('timm_debias.draw', 'write the embedded data set as an image folder'),
    'stylize': ('timm_debias.stylize', 'stylise a folder of images, or look at a grid of pairs'),
    'train-stylizer': ('timm_debias.stylizer_training.main', 'train a style transfer network'),
    'stylizer-report': ('timm_debias.stylizer_report.main', 'measure what stylizers do, side by side'),
    'convert': ('timm_debias.weights.convert', 'turn a checkpoint into a folder that timm loads'),
    'weights': ('timm_debias.weights.command', 'list released models, add their weights, or unpack them'),
    'release': ('timm_debias.weights.release', 'turn a training run into a folder to publish'),
    'average': ('timm_debias.weights.average', 'average the weights of checkpoints'),
    'export': ('timm_debias.weights.export', 'write a model as ONNX, TorchScript or an exported program'),
    'benchmark': ('timm_debias.benchmark.main', 'measure what debiased training costs, or project what a run will'),
    'make-benchmark': (
        'timm_debias.make_benchmark.main',
        'make stylised, corrupted or cue-conflict images from an image folder',
    ),
}
"""Subcommand -> (module with `main(argv) -> int`, description)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that `argv` names and return its exit code."""
    parser = argparse.ArgumentParser(
        prog='timm-debias', description='Shape-texture debiased training for timm.', add_help=True
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    for name, (_, description) in COMMANDS.items():
        commands.add_parser(name, help=description, add_help=False)
    words = sys.argv[1:] if argv is None else argv
    if words and not words[0].startswith('-') and words[0] not in COMMANDS:
        hint = did_you_mean(words[0], COMMANDS)
        print(f"timm-debias: error: unknown command '{one_line(words[0])}'. {hint}", file=sys.stderr)
        return 2
    args, rest = parser.parse_known_args(argv)
    return run(args.command, rest)


def run(command: str, argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; a user's mistake becomes one line on standard error and exit code 2.

    Where what reads the output has closed it, as `| head` does, the exit code is 141 and nothing is said.
    """
    try:
        # Importing takes seconds, in which Ctrl-C may come too.
        command_main: Callable[[Sequence[str] | None], int] = importlib.import_module(COMMANDS[command][0]).main
        code = command_main(argv)
        sys.stdout.flush()
        return code
    except DebiasError as error:
        print(f'timm-debias {command}: error: {one_line(str(error))}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'timm-debias {command}: interrupted', file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it exits.
        return 141


def _stdout_is_closed() -> bool:
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False


if __name__ == '__main__':
    sys.exit(main())
