"""The command `timm-debias release`: a training run becomes a folder to publish."""

import argparse
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
import yaml

from .. import __version__
from ..data.factory import SHAPES_TEXTURES
from ..data.shapes_textures import CLASSES
from ..errors import DebiasError
from ..escaping import markdown_code, markdown_text
from ..flags import Parser, add_flags, command_line, config_from, flag, parse_with_yaml
from ..hashing import hash_weights
from ..log import setup_logging
from ..machine import Machine
from ..training.config import TrainConfig
from ..training.main import build_parser as build_train_parser
from ..training.main import config_from_args
from ..training.model import build_model, resolve_input
from ..validation.loading import resizing_of
from ..validation.results import read_results
from ..validation.tables import format_results
from .card import Section, model_card
from .checkpoints import Checkpoint, read_checkpoint
from .folder import Release, check_new, write_folder
from .hub import check_repository, push
from .manifest import PAPER, entries
from .network import fit

_logger = logging.getLogger(__name__)

ARGS = 'args.yaml'
_CHECKPOINTS = ('model_best.pth.tar', 'last.pth.tar')
_OF_THE_MACHINE = (
    'config', 'output', 'experiment', 'resume', 'log_tensorboard', 'log_wandb', 'wandb_project', 'wandb_tags',
    'wandb_resume_id'
)  # fmt: skip
"""Flags that say where a run was made, not what it is."""

_PATHS = (
    'initial_checkpoint',
    'pretrained_path',
    'class_map',
    'class_stats',
    'loss_class_weight',
    'loss_pos_weight',
    'debias_stylizer_weights',
    'debias_style_dir',
)
"""Flags that name files, or may, of which the folder on the trainer's machine concerns nobody."""

_MODELS = ('model', 'kd_model_name')
_LOCAL = 'local-dir:'
DATA = 'DATA'
"""Stands for the data's folder in released commands."""


@dataclass(frozen=True)
class ReleaseConfig:
    """Release a training run"""

    run_dir: str = flag('', 'folder that train.py made, with args.yaml and checkpoints', 'run_dir', metavar='RUN_DIR')
    name: str = flag('', 'name of the model', metavar='NAME')
    license: str = flag('', 'licence of the weights, as the hub writes it: apache-2.0, cc-by-4.0, …', metavar='NAME')
    results: list[str] | None = flag(
        None, 'folders that validate.py --benchmarks --results-dir made of these weights', nargs='+', metavar='DIR'
    )
    checkpoint: str = flag(
        '', f'checkpoint to release; {_CHECKPOINTS[0]} of the run if not given, else {_CHECKPOINTS[1]}', metavar='FILE'
    )
    use_ema: bool = flag(False, 'take the moving average of the weights')
    output: str = flag('', 'folder to make; NAME in RUN_DIR if not given', metavar='DIR')
    overwrite: bool = flag(False, 'replace a model that is in the folder')
    push_to_hub: str = flag(
        '', 'upload to this repository of the Hugging Face hub; without this flag nothing is uploaded', metavar='REPO'
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Make the folder, and upload it where asked; returns the exit code.

    Raises:
        DebiasError: a mistake in flags or files; nothing is written or uploaded then.
    """
    setup_logging()
    parser = Parser(
        prog='timm-debias release',
        description='Turn a training run into a folder to publish: weights and configuration that plain timm loads, '
        'args.yaml, a model card with measured figures and the command to reproduce, and hashes.',
    )
    add_flags(parser, ReleaseConfig)
    config = config_from(ReleaseConfig, parser.parse_args(argv))
    folder = _check(config)
    release(config, folder)
    print(f"timm.create_model('local-dir:{folder}', pretrained=True)")
    if config.push_to_hub:
        print(push(folder, config.push_to_hub))
    return 0


def _check(config: ReleaseConfig) -> Path:
    if not re.fullmatch(r'\w[\w.-]*', config.name):
        raise DebiasError(f"--name '{config.name}': expected a name of letters, digits and . _ -, and no dot first")
    if config.name in entries():
        raise DebiasError(f'--name {config.name} is a model that timm_debias has already; choose another name')
    if not config.license:
        raise DebiasError('no --license: say under which licence the weights are, such as apache-2.0')
    if not (Path(config.run_dir) / ARGS).is_file():
        raise DebiasError(f'{config.run_dir}: no training run: it has no {ARGS}')
    if config.push_to_hub:
        check_repository(config.push_to_hub)
    folder = Path(config.output) if config.output else Path(config.run_dir) / config.name
    check_new(folder, config.overwrite)
    return folder


def release(config: ReleaseConfig, folder: Path) -> None:
    """Make the folder of a released model from a training run.

    Raises:
        DebiasError: a run that cannot be read, weights that do not fit it, or results of other weights.
    """
    args = parse_with_yaml(build_train_parser(), ['-c', str(Path(config.run_dir) / ARGS)], executes=False)
    train_config = config_from_args(args)
    checkpoint = read_checkpoint(_find_checkpoint(config), config.use_ema)
    if checkpoint.has_ema and not checkpoint.is_ema:
        _logger.info('The checkpoint holds a moving average of the weights too; --use-ema takes it.')
    network = build_network(train_config)
    state = fit(checkpoint, network, train_config.model.model)
    network.load_state_dict(state)
    data_config = resolve_input(train_config, network, verbose=False)
    results = _read_results(config.results or [], hash_weights(network), data_config)
    is_drawn = train_config.data.dataset == SHAPES_TEXTURES
    released = Release(
        network,
        state,
        data_config=data_config,
        about={'license': config.license, **({'paper_ids': PAPER} if train_config.debias.debias else {})},
        aux=checkpoint.aux,
        label_names=CLASSES if is_drawn else (),
    )
    published = published_args(args)
    architecture = network.pretrained_cfg['architecture']

    def card(sums: Mapping[str, str]) -> str:
        sections = [*evaluation_sections(results), _training(args, published, checkpoint)]
        return model_card(config.name, describe(architecture, train_config), released, sections, sums)

    extra = {ARGS: yaml.safe_dump(published, default_flow_style=False)}
    write_folder(folder, released, card, extra, overwrite=config.overwrite)


def _find_checkpoint(config: ReleaseConfig) -> Path:
    if config.checkpoint:
        return Path(config.checkpoint)
    paths = [Path(config.run_dir) / name for name in _CHECKPOINTS]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise DebiasError(f'{config.run_dir} has neither {" nor ".join(_CHECKPOINTS)}; give --checkpoint FILE')
    return found


def build_network(config: TrainConfig) -> Any:
    """Return the network of a run as train.py makes it, with random weights."""
    model = replace(config.model, pretrained=False, pretrained_path=None, initial_checkpoint='', channels_last=False)
    device = replace(config.device, model_dtype=None)
    return build_model(replace(config, model=model, device=device), Machine(torch.device('cpu')))


def _read_results(folders: Sequence[str], weights: str, data_config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the results in folders of validate.py, which must be those of the weights and their preprocessing."""
    found: list[Mapping[str, Any]] = []
    for folder in folders:
        results = read_results(Path(folder))
        if results['weights'] != weights:
            raise DebiasError(
                f'--results {folder}: measured with other weights ({results["weights"][:12]}) than these '
                f'({weights[:12]}); measure the checkpoint that is released'
            )
        _check_preprocessing(folder, results, data_config)
        found.append(results)
    return found


def _check_preprocessing(folder: str, results: Mapping[str, Any], data_config: Mapping[str, Any]) -> None:
    """Raise `DebiasError` where images were prepared in another way than the released configuration says."""
    heeded = {name for entry in results['benchmarks'].values() for name in resizing_of(entry['protocol'])}
    written = {
        'img_size': data_config['input_size'][-1],
        'crop_pct': data_config['crop_pct'],
        'interpolation': data_config['interpolation'],
        'mean': list(data_config['mean']),
        'std': list(data_config['std']),
    }
    measured = {name: results[name] for name in heeded if name in results} | results.get('settings', {})
    other = [name for name in written if name in measured and measured[name] != written[name]]
    if other:
        was, should = (', '.join(f'{name} {_words(values[name])}' for name in other) for values in (measured, written))
        flags = ' '.join(f'--{name.replace("_", "-")} {_words(written[name])}' for name in other)
        raise DebiasError(
            f'--results {folder}: measured with {was}, and the configuration to release has {should}; measure again '
            f'with {flags}'
        )


def _words(value: Any) -> str:
    return ' '.join(map(str, value)) if isinstance(value, list) else str(value)


def published_args(args: argparse.Namespace) -> dict[str, Any]:
    """Return the flags of a run without what tells of the machine it ran on."""
    values = {key: value for key, value in vars(args).items() if key not in _OF_THE_MACHINE}
    values |= {key: DATA for key in ('data', 'data_dir') if values.get(key)}
    for key in _MODELS:
        if str(values.get(key)).startswith(_LOCAL):
            values[key] = _LOCAL + os.path.basename(values[key])
    if 'file' in values['pretrained_cfg_overlay']:
        name = os.path.basename(values['pretrained_cfg_overlay']['file'])
        values['pretrained_cfg_overlay'] = {**values['pretrained_cfg_overlay'], 'file': name}
    return values | {key: os.path.basename(values[key]) for key in _PATHS if values.get(key)}


def describe(architecture: str, config: TrainConfig) -> str:
    """Return in a sentence how a model was trained."""
    debias, data = config.debias, markdown_text(config.data.dataset) or 'an image folder'
    start = 'from pretrained weights' if config.model.pretrained or config.model.initial_checkpoint else 'from scratch'
    if not debias.debias:
        return f'`{architecture}`, trained {start} on {data}, without debiasing.'
    bias = {'debiased': 'debiased', 'shape': 'shape-biased', 'texture': 'texture-biased'}[debias.debias_mode]
    options = [f'γ = {debias.gamma:g}', f'α = {debias.debias_alpha:g}', f'stylizer {debias.debias_stylizer}']
    options += ['one batch norm' if debias.no_debias_aux_bn else 'auxiliary batch norm']
    options += ['multi-grid'] * debias.debias_multi_grid + ['styles of a folder'] * bool(debias.debias_style_dir)
    return (
        f'`{architecture}`, {bias}: trained {start} on {data} and stylised images (Li et al., *Shape-Texture '
        f'Debiased Neural Network Training*, ICLR 2021): {", ".join(options)}.'
    )


def evaluation_sections(results: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return the measured figures for a card, with their protocols; no section where there are none."""
    if not results:
        return []
    tables = ['\n'.join(format_results(result).splitlines()[2:]).replace('## ', '### ') for result in results]
    return [Section('Evaluation', '\n\n'.join(['Measured by `validate.py --benchmarks`.', *tables]))]


def _training(args: argparse.Namespace, published: Mapping[str, Any], checkpoint: Checkpoint) -> Section:
    average = ' (moving average)' if checkpoint.is_ema else ''
    lines = [
        markdown_code(f'python train.py {command_line(build_train_parser(), published)}', 'bash'),
        '',
        f'The same flags are in `{ARGS}`: `python train.py -c {ARGS}`. The batch size is that of each process.',
        f'Released from `{markdown_text(checkpoint.path.name)}`{average} by timm-debias {__version__},',
        f'PyTorch {torch.__version__}, timm {timm.__version__}.',
    ]
    if args.resume:
        lines.append('The run was interrupted and resumed.')
    return Section('Training', '\n'.join(lines))
