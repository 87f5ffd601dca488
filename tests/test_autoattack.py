"""AutoAttack against linear models, whose robust images are known, and the promises it makes to its caller."""

import logging
from importlib.util import find_spec

import pytest
import timm
import torch
from miniatures import result
from torch import nn

from timm_debias import DebiasError
from timm_debias.validation.attacks import PixelModel

pytest.importorskip('pyautoattack')

from timm_debias.validation.autoattack import auto_attack

EPSILON = 0.05


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """Logits W x + b of [B, 3, 4, 4] images."""

    def __init__(self, classes=10):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 48, generator=seeded(1)))
        self.bias = nn.Parameter(torch.randn(classes, generator=seeded(2)))

    def forward(self, images):
        return images.flatten(1) @ self.weight.T + self.bias


@pytest.fixture
def images():
    """Far enough from black and white that the attack is not cut off there."""
    return 0.2 + 0.6 * torch.rand(24, 3, 4, 4, generator=seeded(3))


@pytest.fixture
def labels(images):
    with torch.no_grad():
        labels = Linear()(images).argmax(dim=1)
    labels[0] = (labels[0] + 1) % 10  # One image is wrong without any attack.
    return labels


@pytest.fixture
def few_queries(monkeypatch):
    """Less time for Square, where an image withstands everything before it."""
    from pyautoattack.square import SquareAttack

    attack = SquareAttack.attack_single_run

    def short(self, *arguments):
        self.n_queries = 50
        return attack(self, *arguments)

    monkeypatch.setattr(SquareAttack, 'attack_single_run', short)


def can_be_fooled(model, images, labels, epsilon):
    """The largest change of the margin to another class is epsilon times the L1 norm of the difference of weights."""
    with torch.no_grad():
        logits = model(images)
        margins = logits.gather(1, labels[:, None]) - logits
        reach = epsilon * (model.weight[labels][:, None] - model.weight).abs().sum(dim=2)
        return ((margins < reach) & (torch.arange(10) != labels[:, None])).any(dim=1)


@pytest.mark.usefixtures('few_queries')
@pytest.mark.parametrize('epsilon', [0.01, EPSILON])
def test_fools_exactly_the_images_of_a_linear_model_that_can_be_fooled(images, labels, epsilon):
    model = Linear()
    attacked = auto_attack(model, images, labels, epsilon, seed=0)
    with torch.no_grad():
        fooled = model(attacked).argmax(dim=1) != labels
    expected = can_be_fooled(model, images, labels, epsilon)
    assert 1 < expected.sum() < 24
    assert torch.equal(fooled, expected)
    assert torch.equal(attacked[~fooled], images[~fooled])
    assert torch.equal(attacked[0], images[0])  # It was wrong already.
    assert (attacked - images).abs().max() <= epsilon + 1e-6


def test_no_change_is_allowed(images, labels):
    assert torch.equal(auto_attack(Linear(), images, labels, 0.0, seed=0), images)


def test_stays_in_the_pixel_range(labels):
    images = torch.rand(24, 3, 4, 4, generator=seeded(4)).round()
    attacked = auto_attack(Linear(), images, labels, 0.3, seed=0)
    assert not torch.equal(attacked, images)
    assert attacked.min() >= 0
    assert attacked.max() <= 1


def test_seed(images, labels):
    state = torch.get_rng_state()
    first, again, other = (auto_attack(Linear(), images, labels, 0.2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.usefixtures('few_queries')
def test_model_is_left_alone(images, labels):
    model = Linear().eval()
    model.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    auto_attack(model, images, labels, 0.01, seed=0)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.weight.grad, model.weight.requires_grad, model.bias.requires_grad) == (None, True, False)


@pytest.mark.parametrize(
    'context', [torch.no_grad, torch.inference_mode, lambda: torch.autocast('cpu', torch.bfloat16)]
)
def test_contexts_of_the_caller(images, labels, context):
    model = Linear()
    expected = auto_attack(model, images, labels, 0.2, seed=0)
    with context():
        attacked = auto_attack(model, images.clone(), labels.clone(), 0.2, seed=0)
    assert torch.equal(attacked, expected)
    assert not attacked.is_inference()
    assert not attacked.requires_grad


def test_of_timm(caplog):
    """Of a model that was not trained for it, nothing withstands; the package's lines on every batch are not shown."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PixelModel(timm.create_model('test_resnet', num_classes=20), (0.5,) * 3, (0.5,) * 3).eval()
    images = torch.rand(4, 3, 32, 32, generator=seeded())
    with torch.inference_mode(), caplog.at_level(logging.INFO):
        labels = model(images).argmax(dim=1)
        attacked = auto_attack(model, images, labels, 16 / 255, seed=0)
        assert (model(attacked).argmax(dim=1) != labels).all()
    assert not caplog.records


def test_benchmark(suite, monkeypatch, capsys):
    monkeypatch.setattr('timm_debias.validation.selection.find_spec', find_spec)
    calls = []

    def record(model, images, labels, epsilon, seed):
        calls.append((len(images), 255 * epsilon, seed))
        return auto_attack(model, images, labels, epsilon, seed)

    monkeypatch.setattr('timm_debias.validation.benchmarks.autoattack.auto_attack', record)
    assert suite('--benchmarks', 'autoattack,fgsm', '--epsilons', 0, 32, '--seed', 7, '-b', 4) == 0
    measured = result(capsys)['benchmarks']
    assert calls == [(4, 0, 7), (3, 0, 7), (4, pytest.approx(32), 7), (3, pytest.approx(32), 7)]
    clean, attacked = measured['autoattack']['metrics']['curve']
    assert clean == measured['fgsm']['metrics']['curve'][0]
    assert clean['top1'] > 0
    assert attacked['top1'] == 0
    assert 'seed 7' in measured['autoattack']['protocol']


def test_mistakes(images, labels):
    broken = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    nn.init.constant_(broken[1].weight, torch.nan)
    with pytest.raises(DebiasError, match='logits of 24 of 24 images are not finite'):
        auto_attack(broken, images, labels, EPSILON, seed=0)
    with pytest.raises(DebiasError, match='such as 16/255'):
        auto_attack(Linear(), images, labels, 8, seed=0)
    with pytest.raises(DebiasError, match=r'expected images in \[0, 1\]'):
        auto_attack(Linear(), 255 * images, labels, EPSILON, seed=0)
    assert all(parameter.requires_grad for parameter in broken.parameters())
