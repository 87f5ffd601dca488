"""Adversarial attacks against hand-computed gradients, and the promises they make to their caller."""

from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from timm_debias import DebiasError
from timm_debias.validation.attacks import PixelModel, fgsm, fgsm_ref, pgd

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPSILON = 8 / 255


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=seeded(seed))


def timm_model(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=4).eval()


def pgd_default(model, images, labels, epsilon, **options):
    options = {'steps': 4, 'step_size': epsilon / 2, 'generator': seeded()} | options
    return pgd(model, images, labels, epsilon, **options)


ATTACKS = [fgsm, fgsm_ref, pgd_default]
CONTEXTS = [torch.no_grad, torch.inference_mode, partial(torch.autocast, 'cpu', torch.bfloat16)]


class Linear(nn.Module):
    """Logits W x + b of [B, 3, 4, 4] images."""

    def __init__(self, classes=4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 48, generator=seeded(1)))
        self.bias = nn.Parameter(torch.randn(classes, generator=seeded(2)))

    def forward(self, images):
        return images.flatten(1) @ self.weight.T + self.bias


@pytest.fixture
def labels():
    return torch.randint(4, (8,), generator=seeded(3))


@pytest.fixture(scope='module')
def trained():
    """A small network and the images it learned: two classes, a bright left or right half, in noise."""
    images = uniform(128, 3, 8, 8)
    labels = torch.arange(128) % 2
    halves = torch.zeros(2, 1, 1, 8)
    halves[0, ..., :4] = halves[1, ..., 4:] = 0.25
    images = 0.6 * images + halves[labels] + 0.05
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        net = nn.Sequential(*stem, nn.Flatten(), nn.Linear(128, 2))
        model = PixelModel(net, (0.5,) * 3, (0.25,) * 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(30):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval(), images, labels


def fooled(model, images, labels):
    with torch.no_grad():
        return model(images).argmax(dim=1) != labels


def test_fgsm_of_a_linear_model_by_hand(labels):
    model, images = Linear(), uniform(8, 3, 4, 4)
    with torch.no_grad():
        shares = model(images).softmax(dim=1)
        for image, share, label, attacked in zip(images, shares, labels, fgsm(model, images, labels, 0.1), strict=True):
            gradient = sum(share[k] * model.weight[k] for k in range(4)) - model.weight[label]
            expected = image + 0.1 * gradient.sign().view(3, 4, 4)
            torch.testing.assert_close(attacked, expected.clamp(0, 1), rtol=0, atol=0)


def test_fgsm_ref_lowers_the_logit_of_the_class(labels):
    model, images = Linear(), uniform(8, 3, 4, 4)
    expected = (images - 0.1 * model.weight.detach()[labels].sign().view(8, 3, 4, 4)).clamp(0, 1)
    torch.testing.assert_close(fgsm_ref(model, images, labels, 0.1), expected, rtol=0, atol=0)
    assert not torch.equal(fgsm_ref(model, images, labels, 0.1), fgsm(model, images, labels, 0.1))


def test_fgsm_ref_of_a_model_that_is_certain():
    """A softmax of exactly 0 and 1 has no gradient; the logit has."""

    def certain(images):
        return 1000 * images.flatten(1)[:, :2] * torch.tensor([1.0, 0.0])

    images, labels = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    assert torch.equal(fgsm(certain, images, labels, 0.1), images)
    assert not torch.equal(fgsm_ref(certain, images, labels, 0.1), images)


def test_fgsm_ref_is_the_protocol_of_the_reference(labels):
    """The reference works on normalised images: epsilon 16/255/std, clamped to the images of black and white."""
    net = timm_model('test_resnet')
    images = uniform(8, 3, 32, 32)
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    normalised = ((images - mean) / std).requires_grad_()
    F.nll_loss(net(normalised), labels).backward()
    attacked = normalised.detach() + 16 / 255 / std * normalised.grad.sign()
    attacked = torch.minimum(torch.maximum(attacked, (0 - mean) / std), (1 - mean) / std)
    ours = fgsm_ref(PixelModel(net, MEAN, STD), images, labels, 16 / 255)
    different = (ours - (attacked * std + mean)).abs() > 1e-5  # A gradient next to 0 may round to either sign.
    assert different.float().mean() < 1e-3


@pytest.mark.parametrize(
    ('attack', 'loss'),
    [(fgsm, lambda z, y: F.cross_entropy(z, y)), (fgsm_ref, lambda z, y: -z[0, y[0]])],
    ids=['fgsm', 'fgsm_ref'],
)
def test_sign_of_finite_differences(attack, loss):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).double()
    images, labels = 0.1 + 0.8 * uniform(2, 3, 4, 4, seed=5).double(), torch.tensor([2, 0])
    moves = attack(model, images, labels, 0.05) - images
    assert moves.dtype == torch.float64
    for image, label, move in zip(images.split(1), labels.split(1), moves, strict=True):
        for pixel in range(48):
            step = torch.zeros(48, dtype=torch.float64).index_fill(0, torch.tensor(pixel), 1e-6).view(1, 3, 4, 4)
            with torch.no_grad():
                slope = loss(model(image + step), label) - loss(model(image - step), label)
            assert move.flatten()[pixel] == pytest.approx(0.05 * slope.sign().item())


def test_pgd_of_one_step_by_hand(labels):
    """From its random start, one step of PGD is FGSM and a projection."""
    model, images = Linear(), uniform(8, 3, 4, 4)
    start = (images + 0.1 * (2 * uniform(8, 3, 4, 4, seed=7) - 1)).clamp(0, 1)
    expected = images + (fgsm(model, start, labels, 0.04) - images).clamp(-0.1, 0.1)
    attacked = pgd(model, images, labels, 0.1, steps=1, step_size=0.04, generator=seeded(7))
    torch.testing.assert_close(attacked, expected)


def test_pgd_of_one_long_step_is_fgsm(labels):
    """With two classes the gradient of a linear model has one direction; a step across the ball ends in its corner."""
    model, images, labels = Linear(classes=2), uniform(8, 3, 4, 4), labels % 2
    attacked = pgd(model, images, labels, 0.1, steps=1, step_size=0.2, generator=seeded())
    torch.testing.assert_close(attacked, fgsm(model, images, labels, 0.1))


def test_pgd_is_at_least_as_strong_as_fgsm(trained):
    model, images, labels = trained
    assert not fooled(model, images, labels).any()
    for epsilon in (0.1, 0.14, 0.2):
        by_fgsm = fooled(model, fgsm(model, images, labels, epsilon), labels)
        by_pgd = fooled(model, pgd_default(model, images, labels, epsilon, steps=10, step_size=epsilon / 4), labels)
        assert by_fgsm.any()
        assert by_pgd.sum() >= by_fgsm.sum()


def test_more_restarts_fool_more_images(trained):
    model, images, labels = trained
    weak = partial(pgd_default, steps=1, step_size=0.14)  # So that the start matters.
    attacked = [weak(model, images, labels, 0.14, restarts=restarts) for restarts in (1, 2, 4)]
    wrong = [fooled(model, result, labels) for result in attacked]
    for fewer, more in ((0, 1), (1, 2)):
        assert torch.equal(attacked[fewer][wrong[fewer]], attacked[more][wrong[fewer]])  # The first that fools is kept.
        assert not torch.equal(attacked[fewer][~wrong[fewer]], attacked[more][~wrong[fewer]])
    assert wrong[0].sum() < wrong[2].sum() < len(images)


def test_only_images_still_right_are_attacked_again(trained):
    model, images, labels = trained
    sizes = []

    def recording(batch):
        sizes.append(len(batch))
        return model(batch)

    once = pgd_default(model, images, labels, 0.14, steps=1, step_size=0.14)
    survivors = len(images) - int(fooled(model, once, labels).sum())
    pgd_default(recording, images, labels, 0.14, steps=1, step_size=0.14, restarts=2)
    assert sizes == [128, 128, survivors, survivors]
    assert 0 < survivors < 128
    sizes.clear()
    pgd_default(recording, images, labels, 0.5, steps=2, step_size=0.5, restarts=9)
    assert sizes == [128] * 3  # All are fooled at once.


@pytest.mark.parametrize('attack', ATTACKS)
@pytest.mark.parametrize('epsilon', [0.0, 2 / 255, 16 / 255, 1.0])
def test_bounds(attack, epsilon, labels):
    images = (3 * uniform(8, 3, 4, 4) - 1).clamp(0, 1)  # Two thirds are black or white.
    options = {'step_size': 0.3, 'restarts': 2} if attack is pgd_default else {}
    before = images.clone()
    attacked = attack(Linear(), images, labels, epsilon, **options)
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert (attacked - images).abs().max() <= epsilon + 1e-7
    assert torch.equal(images, before)
    assert not attacked.requires_grad


def test_pgd_is_reproducible(labels):
    model, images = Linear(), uniform(8, 3, 4, 4)
    state = torch.get_rng_state()
    first, again, other = (pgd_default(model, images, labels, 0.1, steps=1, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_pgd_draws_for_each_image_on_its_own(labels):
    images, options = uniform(8, 3, 4, 4), {'steps': 1, 'step_size': 0}
    together = pgd_default(Linear(), images, labels, 0.1, generator=[seeded(s) for s in range(8)], **options)
    for index in range(8):
        alone = pgd_default(
            Linear(), images[index, None], labels[index, None], 0.1, generator=[seeded(index)], **options
        )
        assert torch.equal(alone[0], together[index])
    assert not torch.equal(together[0] - images[0], together[1] - images[1])


@pytest.mark.parametrize('attack', ATTACKS)
def test_model_is_left_alone(trained, attack):
    model, images, labels = trained
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.model[0].train()  # Modes that differ from module to module.
    modes = [module.training for module in model.modules()]
    attack(model, images, labels, EPSILON)
    assert [module.training for module in model.modules()] == modes
    model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize('attack', ATTACKS)
@pytest.mark.parametrize(
    'context', [torch.no_grad, torch.inference_mode, lambda: torch.autocast('cpu', torch.bfloat16)]
)
def test_contexts_of_the_caller(trained, attack, context):
    model, images, labels = trained
    expected = attack(model, images, labels, EPSILON)
    with context():
        inputs, targets = images.clone(), labels.clone()  # Tensors that were born in the context.
        attacked = attack(model, inputs, targets, EPSILON)
        assert torch.is_grad_enabled() == (context not in (torch.no_grad, torch.inference_mode))
    assert torch.equal(attacked, expected)
    assert attacked.dtype == torch.float32
    assert not attacked.is_inference()


def test_model_calls_without_autocast_and_with_gradients_where_needed(labels):
    model, calls = Linear(), []

    def recording(images):
        calls.append((torch.is_autocast_enabled('cpu'), torch.is_grad_enabled()))
        return model(images)

    with torch.autocast('cpu', torch.bfloat16):
        pgd_default(recording, uniform(8, 3, 4, 4), labels, EPSILON, steps=2)
    assert calls == [(False, True), (False, True), (False, False)]


def test_low_precision_images_are_attacked_in_float32(trained):
    model, images, labels = trained
    rounded = images.bfloat16()
    assert torch.equal(fgsm(model, rounded, labels, EPSILON), fgsm(model, rounded.float(), labels, EPSILON))


def test_gradients_do_not_depend_on_the_batch(trained):
    model, images, labels = trained
    single = torch.cat([fgsm(model, x, y, EPSILON) for x, y in zip(images.split(1), labels.split(1), strict=True)])
    different = single != fgsm(model, images, labels, EPSILON)
    assert different.float().mean() < 1e-3  # Rounding may turn the sign of a gradient next to 0.


@pytest.mark.parametrize('name', ['test_resnet', 'test_vit', 'levit_128s'])
def test_pixel_model_of_timm(name):
    """LeViT keeps attention biases of an earlier forward pass, here one in inference mode."""
    net = timm_model(name)
    size = net.default_cfg['input_size'][-1]
    model, images = PixelModel(net, MEAN, STD), uniform(2, 3, size, size)
    with torch.inference_mode():
        logits = model(images)
        expected = net((images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        label = logits.argmax(dim=1)
        attacked = pgd(model, images, label, EPSILON, steps=2, step_size=EPSILON, generator=seeded())
        assert (model(attacked)[[0, 1], label] < logits[[0, 1], label]).all()


def infinite_slope(images):
    """Finite logits whose gradient is infinite in black pixels."""
    return images.flatten(1)[:, :4].sqrt()


@pytest.mark.parametrize('attack', ATTACKS)
def test_values_that_are_not_finite(attack, labels):
    def not_a_number(images):
        logits = Linear()(images)
        return torch.where(torch.arange(len(images))[:, None] == 3, torch.nan, logits)

    with pytest.raises(DebiasError, match='the logits of 1 of 8 images are not finite'):
        attack(not_a_number, uniform(8, 3, 4, 4), labels, EPSILON)
    images = torch.zeros(8, 3, 4, 4)
    with pytest.raises(DebiasError, match=r'the gradients of \d of 8 images are not finite'):
        attack(infinite_slope, images, labels, 0.0)


@pytest.mark.parametrize('attack', ATTACKS)
def test_wrong_input(attack, labels):
    model, images = Linear(), uniform(8, 3, 4, 4)
    for epsilon in (16, -0.1, float('nan')):
        with pytest.raises(DebiasError, match='such as 16/255'):
            attack(model, images, labels, epsilon)
    for wrong in (images - 0.5, 255 * images, images / 0):
        with pytest.raises(DebiasError, match=r'expected images in \[0, 1\]'):
            attack(model, wrong, labels, EPSILON)


@pytest.mark.parametrize('option', [{'steps': 0}, {'step_size': -0.1}, {'step_size': float('nan')}, {'restarts': 0}])
def test_wrong_options_of_pgd(option, labels):
    with pytest.raises(DebiasError, match='PGD with'):
        pgd_default(Linear(), uniform(8, 3, 4, 4), labels, EPSILON, **option)


def test_attacks_of_foolbox(trained, monkeypatch):
    foolbox = pytest.importorskip('foolbox')
    model, images, labels = trained
    normalise = {'mean': [0.5] * 3, 'std': [0.25] * 3, 'axis': -3}
    theirs = foolbox.PyTorchModel(model.model, bounds=(0, 1), preprocessing=normalise, device='cpu')
    _, expected, _ = foolbox.attacks.FGSM()(theirs, images, labels, epsilons=EPSILON)
    torch.testing.assert_close(fgsm(model, images, labels, EPSILON), expected, rtol=0, atol=1e-7)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=EPSILON / 4, steps=10, random_start=False)
    _, expected, _ = attack(theirs, images, labels, epsilons=EPSILON)
    monkeypatch.setattr(torch, 'rand', lambda shape, generator: torch.full(shape, 0.5))  # A start without noise.
    ours = pgd_default(model, images, labels, EPSILON, steps=10, step_size=EPSILON / 4)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-7)
    assert not torch.equal(ours, images)
