"""Starting from trained weights: a linear probe, another number of classes, debiased training from plain weights."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.utils import random_seed

from timm_debias.cli import main
from timm_debias.machine import Machine
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.model import build_model, build_task, resolve_input

COMMON = ['--img-size', '32', '--device', 'cpu', '-j', '0', '-b', '4', '--epochs', '2', '--warmup-epochs', '0']
COMMON += ['--lr', '0.05', '--experiment', 'a']
MACHINE = Machine(torch.device('cpu'))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """An image folder of three classes that differ in colour."""
    root = tmp_path_factory.mktemp('data')
    generator = np.random.default_rng(0)
    for split, count in (('train', 4), ('validation', 2)):
        for index, name in enumerate(('blue', 'green', 'red')):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 100, (40, 40, 3))
                pixels[..., index] += 155
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f'{number}.png')
    return root


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    """A model of 5 classes, released as a folder."""
    folder = tmp_path_factory.mktemp('released')
    torch.manual_seed(0)
    model = timm.create_model('test_resnet', num_classes=5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    torch.save(model.state_dict(), folder / 'model.pth')
    arguments = ['--arch', 'test_resnet', '--img-size', '32', '--out', str(folder / 'model')]
    assert main(['convert', str(folder / 'model.pth'), *arguments]) == 0
    return folder / 'model', model.state_dict()


def train(data, tmp_path, *argv) -> int:
    return main(['train', '--data-dir', str(data), *COMMON, '--output', str(tmp_path), *map(str, argv)])


def build(*argv):
    return config_from_args(build_parser().parse_args(['--device', 'cpu', '--img-size', '32', *map(str, argv)]))


def error(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize('debias', [[], ['--debias', '--no-debias-aux-bn']], ids=str)
def test_linear_probe_changes_the_classifier_alone(data, released, tmp_path, debias):
    folder, before = released
    probe = ['--model', f'local-dir:{folder}', '--pretrained', '--num-classes', 3, '--freeze-backbone']
    assert train(data, tmp_path, *probe, *debias) == 0
    after = torch.load(tmp_path / 'a' / 'last.pth.tar', weights_only=False)['state_dict']
    assert after.keys() == before.keys()
    for key, value in before.items():
        if not key.startswith('fc.'):
            assert torch.equal(after[key], value), key
    config = config_from_args(build_parser().parse_args(['--data-dir', str(data), *COMMON, *map(str, probe)]))
    random_seed(config.run.seed)
    start = build_model(config, MACHINE).state_dict()
    assert not torch.equal(after['fc.weight'], start['fc.weight'])


def test_only_the_classifier_is_trained():
    for name in ('test_resnet', 'test_vit', 'test_efficientnet'):
        model = build_model(build('--model', name, '--num-classes', 3, '--freeze-backbone'), MACHINE)
        trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
        assert sorted(trained) == [3, 3 * model.num_features]


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        ([], '--pretrained or --initial-checkpoint'),
        (['--initial-checkpoint', 'CHECKPOINT', '--debias'], '--no-debias-aux-bn'),
        (['--initial-checkpoint', 'CHECKPOINT', '--drop', '0.1'], '--drop acts on the features'),
        (['--initial-checkpoint', 'CHECKPOINT', '--num-classes', '5', '--drop-path', '0.1'], '--drop-path acts'),
    ],
)
def test_refusals(data, released, tmp_path, capsys, flags, words):
    checkpoint = str(released[0].parent / 'model.pth')
    flags = [checkpoint if flag == 'CHECKPOINT' else flag for flag in flags]
    assert train(data, tmp_path, '--model', 'test_resnet', '--freeze-backbone', *flags) == 2
    assert words in error(capsys)


@pytest.mark.parametrize(
    'flags',
    [['--initial-checkpoint'], ['--pretrained', '--pretrained-path'], ['--resume']],
    ids=lambda flags: flags[-1],
)
def test_weights_that_are_not_finite(data, tmp_path, capsys, flags):
    """Of these, the losses of an epoch would say nothing: batch norm takes the batch's statistics in training."""
    state = timm.create_model('test_resnet', num_classes=3).state_dict()
    state['bn1.running_var'][0] = float('nan')
    path = tmp_path / 'model.pth'
    torch.save({'state_dict': state}, path)
    assert train(data, tmp_path, '--model', 'test_resnet', '--num-classes', 3, *flags, path) == 2
    assert f'{flags[-1]} {path}: ' in (message := error(capsys))
    assert "'bn1.running_var' holds NaN or infinite values" in message


def test_checkpoint_of_another_number_of_classes(data, released, tmp_path, capsys):
    checkpoint = released[0].parent / 'model.pth'
    flags = ['--model', 'test_resnet', '--initial-checkpoint', checkpoint, '--num-classes', 3]
    assert train(data, tmp_path, *flags) == 2
    words = (
        f'--initial-checkpoint {checkpoint}: the checkpoint has 5 classes and the model 3: give --num-classes 5, or '
    )
    assert words + '--pretrained --pretrained-path' in error(capsys)


def test_pretrained_into_another_number_of_classes(released):
    folder, before = released
    for flags in (
        ['--model', f'local-dir:{folder}', '--pretrained'],
        ['--model', 'test_resnet', '--pretrained', '--pretrained-path', folder / 'model.safetensors'],
    ):
        model = build_model(build(*flags, '--num-classes', 3), MACHINE)
        state = model.state_dict()
        assert state['fc.weight'].shape[0] == 3
        assert all(torch.equal(state[key], value) for key, value in before.items() if not key.startswith('fc.'))


@pytest.mark.parametrize('source', ['folder', 'checkpoint'])
def test_debiased_training_from_plain_weights_starts_with_equal_batch_norms(released, source):
    """As the reference: auxiliary batch norm is a copy of the main one, and the model decides as before."""
    folder, before = released
    if source == 'folder':
        config = build('--debias', '--model', f'local-dir:{folder}', '--pretrained')
    else:
        start = ['--initial-checkpoint', folder.parent / 'model.pth']
        config = build('--debias', '--model', 'test_resnet', '--num-classes', 5, *start)
    model = build_model(config, MACHINE)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = model.eval()(images)
    task = build_task(config, model, resolve_input(config, model, verbose=False), 5, MACHINE)
    state = task.trainable_module.state_dict()
    aux = {key: value for key, value in state.items() if '.aux_bn.' in key}
    assert len(aux) == 5 * sum('running_mean' in key for key in before)
    for key, value in aux.items():
        assert torch.equal(value, before[key.replace('.aux_bn.', '.')]), key
    with torch.no_grad():
        assert torch.equal(task.trainable_module.eval()(images), expected)
    result = task(images, torch.tensor([0, 1, 2, 3]))
    assert result['loss'].isfinite()
