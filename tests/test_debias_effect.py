"""The effect benchmark: its arithmetic, its resume, and its refusals."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

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
    assert '| adain_lite | +6.5 ± 0.0' in text  # The seeds' own spread cancels.


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
