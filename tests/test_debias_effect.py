"""The effect benchmark: its arithmetic, its resume, and its refusals."""

import argparse
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

PATH = Path(__file__).parents[1] / 'benchmarks/debias_effect.py'


@pytest.fixture(scope='module')
def effect():
    spec = importlib.util.spec_from_file_location('debias_effect', PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules['debias_effect'] = module
    spec.loader.exec_module(module)
    return module


def test_interval_by_hand(effect):
    """Five differences 1..5: mean 3, standard error sqrt(2.5 / 5), t(4) = 2.776."""
    assert effect.interval([1, 2, 3, 4, 5]) == '+3.0 ± 2.0'


def test_fgsm_on_a_linear_model(effect):
    """For a linear two-class model the gradient's sign is that of the difference of the weights."""
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    model[1].weight = nn.Parameter(weight)
    images, labels = torch.full((2, 3, 1, 1), 0.5), torch.tensor([0, 1])
    moved = effect.fgsm(model, images, labels, 0.1) - images
    against = torch.sign(weight[1] - weight[0])  # Away from class 0.
    torch.testing.assert_close(moved[:, :, 0, 0], 0.1 * torch.stack([against, -against]))


def test_paired_differences(effect):
    runs = {
        (name, seed): dict.fromkeys(effect.MEASURES, value + seed)
        for name, value in (('plain', 10.0), ('adain_lite', 16.5))
        for seed in (0, 1, 2)
    }
    text = effect.report(runs, ['plain', 'adain_lite'], [0, 1, 2])
    assert '| plain | 11.0 ± 1.0' in text
    assert '| adain_lite | +6.5 | +6.5 |' in text  # The seeds' own spread cancels: no interval.


def test_corruptions_keep_the_mean(effect):
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = {name: corrupt(images) for name, corrupt in effect.corruptions(32).items()}
    assert set(found) == {'noise', 'blur', 'contrast'}
    torch.testing.assert_close(found['contrast'].mean((1, 2, 3)), images.mean((1, 2, 3)))
    torch.testing.assert_close(found['contrast'].std((1, 2, 3)), 0.3 * images.std((1, 2, 3)))
    assert (found['blur'].std((2, 3)) < images.std((2, 3))).all()


def test_a_second_call_trains_only_what_is_missing(effect, tmp_path, monkeypatch, capsys):
    trained = []

    def train(method, seed, images, labels, args):
        trained.append((method, seed))
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))

    monkeypatch.setattr(effect, 'train', train)
    argv = ['debias_effect.py', '--output', str(tmp_path), '--methods', 'plain', 'adain_lite', '--img-size', '32']
    argv += ['--train-samples', '8', '--test-samples', '8', '--seeds']
    for seeds, expected in ((['0'], 2), (['0', '1'], 4), (['0', '1'], 4)):
        monkeypatch.setattr(sys, 'argv', [*argv, *seeds])
        assert effect.main() == 0
        assert len(trained) == expected
    assert len((tmp_path / 'effect.csv').read_text().splitlines()) == 1 + 4
    assert '| adain_lite |' in capsys.readouterr().out
    assert json.loads((tmp_path / 'runs/adain_lite-1.json').read_text()).keys() == set(effect.MEASURES)

    monkeypatch.setattr(sys, 'argv', [*argv, '0', '--epochs', '3'])
    assert effect.main() == 2
    assert 'other settings' in capsys.readouterr().err
    assert len(trained) == 4


@pytest.mark.parametrize(
    ('method', 'epochs'), [('plain', 1), ('plain, twice the epochs', 2), ('adain_lite', 2), ('band_statistics', 2)]
)
def test_what_a_method_shows_the_model(effect, monkeypatch, method, epochs):
    """Debiased training and plain training for twice the epochs show the model as many images."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))
    model.num_classes = 8
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr(effect.timm, 'create_model', lambda name, num_classes: model)
    args = argparse.Namespace(model='', epochs=3, batch_size=4, lr=1e-3, vgg19_weights=None)
    effect.train(effect.METHODS[method], 0, torch.rand(10, 3, 32, 32), torch.arange(10) % 8, args)
    assert sum(seen) == 3 * 8 * epochs  # Two full batches an epoch.


def test_twice_a_seed_is_refused(effect, tmp_path):
    args = argparse.Namespace(seeds=[0, 0], output=str(tmp_path))
    assert 'different seeds' in effect.check(args)


def test_weights_of_vgg19_and_its_method_go_together(effect, tmp_path, monkeypatch, capsys):
    for more in (['--methods', 'adain_vgg19'], ['--vgg19-weights', 'folder']):
        monkeypatch.setattr(sys, 'argv', ['debias_effect.py', '--output', str(tmp_path), *more])
        assert effect.main() == 2
        assert 'go together' in capsys.readouterr().err
    monkeypatch.setattr(sys, 'argv', ['debias_effect.py', '--output', str(tmp_path), '--methods', 'adain_vgg19',
                                      '--vgg19-weights', 'absent'])  # fmt: skip
    assert effect.main() == 2
    assert 'absent: no such file or folder' in capsys.readouterr().err


METHODS = ['plain', 'plain, twice the epochs', 'adain_lite', 'adain_lite, no auxiliary BN']
METHODS += ['adain_lite, alpha 1, no auxiliary BN', 'band_statistics', 'fourier_amplitude']


def test_stored_report_is_made_from_the_stored_runs(effect, tmp_path, monkeypatch, capsys):
    """And the tables of docs/stylizers.md are those of the report."""
    stored = PATH.parent / 'results/debias_effect'
    folder = tmp_path / 'effect'
    shutil.copytree(stored / 'runs', folder / 'runs')
    shutil.copy(stored / 'settings.json', folder)
    monkeypatch.setattr(effect, 'images_of', lambda *args: (None, None))
    argv = ['debias_effect.py', '--output', str(folder), '--seeds', *'01234', '--methods', *METHODS]
    monkeypatch.setattr(sys, 'argv', argv)
    assert effect.main() == 0
    for name in ('effect.md', 'effect.csv', 'effect.svg'):
        assert (folder / name).read_bytes() == (stored / name).read_bytes(), name
    report = (stored / 'effect.md').read_text(encoding='utf-8')
    assert report.strip() in (PATH.parents[1] / 'docs/stylizers.md').read_text(encoding='utf-8')


def test_drawing(effect):
    """A mark lies where its mean is between the labels of the axis."""
    runs = {('plain', seed): {'shape': 20.0 + seed, 'texture': 60.0} for seed in (0, 1, 2)}
    root = ElementTree.fromstring(effect.draw(runs, ['plain'], [0, 1, 2]))
    space = '{http://www.w3.org/2000/svg}'
    labels = {float(item.text): float(item.get('x')) for item in root.iter(f'{space}text') if item.text.isdigit()}
    marks = {
        title.text: float(item.get('transform').removeprefix('translate(').split()[0])
        for item in root.iter(f'{space}g')
        for title in item.iter(f'{space}title')
        if '±' in title.text
    }
    assert marks['plain, shape: 21.0 ± 2.5'] == pytest.approx(labels[20] + (labels[40] - labels[20]) / 20, abs=0.2)
    assert marks['plain, texture: 60.0 ± 0.0'] == pytest.approx(labels[60], abs=0.2)
