"""Make the released models of `shapes_textures`: train, round, measure, and write what the package ships.

    python benchmarks/make_zoo.py --output output/zoo

For each of the four models: train.py with `hparams/zoo_resnet18_shapes_textures.yaml`; the weights of the last epoch,
rounded to `BITS` bits with a scale for each channel, packed into `timm_debias/weights/shipped`; validate.py on what
comes out of that file; a card with these figures beside it, and its hash in the manifest. A run that was interrupted
goes on.
"""

import argparse
import csv
import re
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from timm_debias.cli import run
from timm_debias.data.shapes_textures import CLASSES
from timm_debias.errors import DebiasError
from timm_debias.files import atomic_path, write_text
from timm_debias.flags import parse_with_yaml
from timm_debias.hashing import hash_file
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.validation.results import read_results
from timm_debias.weights.card import Section, model_card
from timm_debias.weights.checkpoints import read_checkpoint
from timm_debias.weights.folder import Release
from timm_debias.weights.manifest import MANIFEST, Entry, get_entry
from timm_debias.weights.packed import load_packed, pack, save_packed
from timm_debias.weights.release import describe, evaluation_sections
from timm_debias.weights.zoo import SHIPPED

HPARAMS = 'hparams/zoo_resnet18_shapes_textures.yaml'
BITS = 5
MODELS = {
    'resnet18_debiased.shapes_textures': ['--debias'],
    'resnet18_debiased.plain_shapes_textures': [],
    'resnet18_debiased.shape_biased_shapes_textures': ['--debias', '--debias-mode', 'shape'],
    'resnet18_debiased.texture_biased_shapes_textures': ['--debias', '--debias-mode', 'texture'],
}
"""Released model -> flags of its training."""

COLUMNS = {'top1': 'eval_top1', 'shape': 'eval_conflict_shape', 'texture': 'eval_conflict_texture'}
"""Figure in the card -> column of summary.csv."""


def train(name: str, output: Path) -> Path:
    """Train a model, or the rest of it, and return the run's folder."""
    run_dir = output / name
    last = run_dir / 'last.pth.tar'
    flags = ['-c', HPARAMS, *MODELS[name], '--output', str(output), '--experiment', name]
    if last.exists():
        flags += ['--resume', str(last)]
    check(run('train', flags))
    return run_dir


def check(code: int) -> None:
    """Stop where a command failed; it has said why."""
    if code:
        raise SystemExit(code)


def measure(name: str, path: Path, output: Path) -> Mapping:
    """Return what validate.py measures of the packed weights at `path`."""
    checkpoint, results = output / name / 'rounded.safetensors', output / name / f'results-{hash_file(path)[:8]}'
    with atomic_path(checkpoint) as temporary:
        save_file(load_packed(path), temporary)
    flags = ['--model', 'resnet18', '--num-classes', str(len(CLASSES)), '--img-size', '64', '--device', 'cpu']
    flags += ['--checkpoint', str(checkpoint), '--benchmarks', 'shapes_textures', '-j', '0', '-b', '64']
    check(run('validate', [*flags, '--results-dir', str(results), '--resume']))
    return read_results(results)


def write_card(entry: Entry, run_dir: Path, path: Path, results: Mapping) -> None:
    """Write the card of a model beside its packed weights."""
    args = parse_with_yaml(build_parser(), ['-c', str(run_dir / 'args.yaml')])
    network = timm.create_model(entry.architecture, num_classes=entry.num_classes)
    release = Release(network, network.state_dict(), entry.data_config, entry.about)
    before = ', '.join(f'{name} {float(last_row(run_dir)[column]):.2f}' for name, column in COLUMNS.items())
    packing = Section(
        'Weights',
        f'Rounded after training: each weight of a convolution and of the classifier is an integer of {BITS} bits\n'
        'times a scale of its output channel, so that a model takes 6.5 MB instead of 45. All figures above are those\n'
        f'of the rounded weights; as trained, in bfloat16, it had {before}.',
    )
    sections = [*evaluation_sections([results]), commands(entry.name), packing]
    text = model_card(
        entry.name,
        describe(entry.architecture, config_from_args(args)),
        release,
        sections,
        {path.name: hash_file(path)},
    )
    write_text(SHIPPED / f'{entry.name}.md', text)


def commands(name: str) -> Section:
    """Return what of a card says how to train and how to measure a model."""
    training = ' '.join(['python train.py -c', HPARAMS, *MODELS[name]])
    return Section(
        'Commands',
        'From a checkout of timm-debias. The first command is the training alone, with seed 0; the second trains,\n'
        'rounds the weights, measures them and writes this card; the third measures the shipped model and gives the\n'
        'figures above: top-1 on the 800 images of the validation split, shape and texture on the 1,120 conflict\n'
        'images.\n\n'
        f'```bash\n{training}\npython benchmarks/make_zoo.py --models {name}\n'
        f'python validate.py --model {name} --benchmarks shapes_textures --device cpu\n```\n\n'
        f'Made with PyTorch {torch.__version__} and timm {timm.__version__}.',
    )


def last_row(run_dir: Path) -> dict[str, str]:
    """Return the last line of a run's summary.csv."""
    with open(run_dir / 'summary.csv', newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))[-1]


def write_hash(entry: Entry, path: Path) -> None:
    """Put the hash of packed weights into the manifest."""
    pattern = rf"(^  packed: {re.escape(path.name)}\n  sha256: ')[0-9a-f]*(?='$)"
    text, count = re.subn(pattern, rf'\g<1>{hash_file(path)}', MANIFEST.read_text(), flags=re.MULTILINE)
    if count != 1:
        raise DebiasError(f'{MANIFEST} has no lines "packed: {path.name}" and "sha256: …" for {entry.name}')
    write_text(MANIFEST, text)


def main() -> None:
    """Make the models one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', type=Path, default=Path('output/zoo'), help='folder for runs and results')
    parser.add_argument('--models', nargs='+', default=list(MODELS), choices=list(MODELS), help='models to make')
    args = parser.parse_args()
    for name in args.models:
        entry = get_entry(name)
        run_dir = train(name, args.output)
        path = SHIPPED / f'{name}.npz'
        save_packed(path, pack(read_checkpoint(run_dir / 'last.pth.tar').state, BITS))
        write_card(entry, run_dir, path, measure(name, path, args.output))
        write_hash(entry, path)
        print(f'{path}: {path.stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
    main()
