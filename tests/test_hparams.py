"""Every recipe: its commands run, its baselines differ in what they say, its cost is what the estimate gives."""

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from torchvision import transforms

from timm_debias.cli import main
from timm_debias.flags import parse_with_yaml
from timm_debias.machine import Machine
from timm_debias.training.data import build_datasets, build_eval_loader, build_train_loader
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.model import resolve_input

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.stem for path in (ROOT / 'hparams').glob('*.yaml') if not path.stem.startswith(('zoo', 'study')))
OF_THE_PAPER = [name for name in RECIPES if name.startswith(('resnet50_shape', 'resnet50_texture', 'resnext'))]
OF_THE_PAPER += ['resnet50', 'resnet101', 'resnet152']
STAND_INS = {'convnext_tiny': 'test_convnext', 'vit_small_patch16_224': 'test_vit'}


def commands(name: str) -> list[list[str]]:
    """The arguments of train.py in the head of a recipe: debiased, baseline, baseline of twice the epochs."""
    text = (ROOT / 'hparams' / f'{name}.yaml').read_text()
    lines = re.sub(r'\\\n#', '', text).splitlines()
    found = [re.fullmatch(r'#   (?:torchrun --nproc-per-node 8|python) train\.py (.*)', line) for line in lines]
    return [shlex.split(match[1]) for match in found if match]


def parse(argv):
    return parse_with_yaml(build_parser(), argv)


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Eight images of two classes to train on and to validate, and two paintings."""
    root = tmp_path_factory.mktemp('data')
    generator = np.random.default_rng(0)
    names = [f'{name}/{number}.png' for name in ('cat', 'dog') for number in range(4)]
    places = [root / split / name for split in ('train', 'validation') for name in names]
    for path in [*places, root / 'paintings' / 'a.png', root / 'paintings' / 'b.png']:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return root


def shrink(argv: list[str], folder: Path, output: Path) -> list[str]:
    """The command on a small machine: other data, another network of the same kind, two batches of four."""
    values = vars(parse(argv))
    argv = [word for word in argv if word != '--pretrained']
    for name, place in (('IMAGENET', folder), ('PAINTINGS', folder / 'paintings')):
        argv = [str(place) if word == name else word for word in argv]
    model = STAND_INS.get(values['model'], 'test_resnet')
    argv += ['--model', model, '--img-size', '64', '-b', '4', '--epochs', '1', '--grad-accum-steps', '1']
    argv += ['--device', 'cpu', '-j', '0', '--val-split', '', '--output', str(output), '--experiment', 'run']
    argv += ['--debias-stylizer', 'adain_lite', '--amp-dtype', 'bfloat16', '--aug-repeats', '0']
    if values['dataset']:
        argv += ['--train-num-samples', '8']
    else:
        argv += ['--num-classes', '2']
    if model == 'test_vit':
        argv += ['--model-kwargs', 'img_size=64']
    if values['debias_min_size']:
        argv += ['--debias-min-size', '48']
    return argv


@pytest.mark.parametrize('kind', ['debiased', 'baseline'])
@pytest.mark.parametrize('name', RECIPES)
def test_runs_two_steps(name, kind, folder, tmp_path):
    debiased, baseline, _ = commands(name)
    assert main(['train', *shrink(debiased if kind == 'debiased' else baseline, folder, tmp_path)]) == 0
    state = torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=False)
    optimizer_steps = [float(entry['step']) for entry in state['optimizer']['state'].values() if 'step' in entry]
    assert set(optimizer_steps) <= {2.0}
    tracked = {key: int(value) for key, value in state['state_dict'].items() if key.endswith('num_batches_tracked')}
    assert set(tracked.values()) <= {2}
    assert ('task_state' in state) == (kind == 'debiased' and bool(tracked) and name != 'sin_like')
    assert all(value.isfinite().all() for value in state['state_dict'].values())


def test_recipe_of_the_released_models_runs_two_steps(folder, tmp_path):
    argv = ['-c', 'hparams/zoo_resnet18_shapes_textures.yaml', '--debias']
    assert main(['train', *shrink(argv, folder, tmp_path)]) == 0
    state = torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=False)
    assert {float(entry['step']) for entry in state['optimizer']['state'].values()} == {2.0}


@pytest.mark.parametrize('name', RECIPES)
def test_baselines_differ_in_what_they_say(name):
    debiased, baseline, doubled = (vars(parse(argv)) for argv in commands(name))
    assert debiased.pop('debias') is True
    assert baseline.pop('debias') is doubled.pop('debias') is False
    assert debiased == baseline
    differences = {key: (baseline[key], doubled[key]) for key in baseline if baseline[key] != doubled[key]}
    assert differences.pop('epochs') == (baseline['epochs'], 2 * baseline['epochs'])
    if baseline['sched'] == 'warmup_multistep':
        before, after = differences.pop('decay_milestones')
        assert after == [2 * epoch for epoch in before]
    assert not differences


@pytest.mark.parametrize('name', RECIPES)
def test_names_its_own_file(name):
    for argv in commands(name):
        assert argv[:2] == ['-c', f'hparams/{name}.yaml']
    assert config_from_args(parse(commands(name)[0])).debias.debias


@pytest.mark.parametrize('name', OF_THE_PAPER)
def test_images_are_those_of_the_paper(name, folder):
    """Crops to 224 with torchvision's defaults and flips, nothing else; validation on 224 of 256 pixels."""
    config = config_from_args(parse(['-c', f'hparams/{name}.yaml', '--data-dir', str(folder), '-b', '4', '-j', '0']))
    with torch.device('meta'):
        model = timm.create_model(config.model.model)
    input_config, machine = resolve_input(config, model, verbose=False), Machine(torch.device('cpu'))
    train, validation = build_datasets(config, input_config, 1000)
    build_train_loader(config, train, model, input_config, 1000, machine)
    build_eval_loader(config, validation, model, input_config, 1000, machine)

    crop, flip, *others = train.transform.transforms
    paper = transforms.RandomResizedCrop(224)
    assert crop.size == paper.size
    assert tuple(crop.scale) == paper.scale
    assert tuple(crop.ratio) == pytest.approx(paper.ratio)
    assert crop.interpolation == paper.interpolation
    assert isinstance(flip, transforms.RandomHorizontalFlip)
    assert flip.p == transforms.RandomHorizontalFlip().p
    jitter = [transform for transform in others if isinstance(transform, transforms.ColorJitter)]
    assert len(others) == len(jitter) + 1  # The last hands the pixels over.
    for strengths in jitter:
        assert strengths.brightness is strengths.contrast is strengths.saturation is strengths.hue is None

    resize, crop, _ = validation.transform.transforms
    assert (resize.size, resize.interpolation) == (256, transforms.InterpolationMode.BILINEAR)
    assert crop.size == (224, 224)
    assert (input_config['mean'], input_config['std']) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ('names', 'stylizer', 'alpha', 'gamma', 'aux_bn'),
    [
        (OF_THE_PAPER, 'adain_vgg19', 0.5, {'resnet50_shape_biased': 1.0, 'resnet50_texture_biased': 0.0}, True),
        (['sin_like'], 'adain_vgg19', 1.0, {'sin_like': 1.0}, False),
    ],
    ids=['paper', 'Stylized-ImageNet'],
)
def test_stylisation(names, stylizer, alpha, gamma, aux_bn):
    for name in names:
        debias = config_from_args(parse(commands(name)[0])).debias
        found = (debias.debias_stylizer, debias.debias_alpha, debias.gamma, not debias.no_debias_aux_bn)
        assert found == (stylizer, alpha, gamma.get(name, 0.8), aux_bn), name


def test_batches_are_those_of_eight_processes():
    for name in set(RECIPES) - {'quickstart'}:
        text = (ROOT / 'hparams' / f'{name}.yaml').read_text()
        total = re.search(r'^batch_size: (\d+)  # in each of 8 processes.*: (\d+) clean images', text, re.MULTILINE)
        values = yaml.safe_load(text)
        assert int(total[1]) * 8 * values.get('grad_accum_steps', 1) == int(total[2]), name


def test_costs():
    """The numbers in the heads and in docs/training.md are those that the command prints."""
    spec = importlib.util.spec_from_file_location('recipe_cost', ROOT / 'benchmarks' / 'recipe_cost.py')
    recipe_cost = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe_cost)
    for path in recipe_cost.recipes():
        assert recipe_cost.cost_line(recipe_cost.load(path)) in path.read_text().splitlines()
    assert recipe_cost.table() in (ROOT / 'docs' / 'training.md').read_text()
