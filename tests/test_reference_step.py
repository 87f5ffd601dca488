"""Three steps of each recipe of the paper, against the reference's training step written again in plain PyTorch.

The other side is a torchvision ResNet with two batch norms at each place, images in [0, 1], stylisation and mixing as
the reference does them, and SGD by hand, in float64; the random numbers are the same. A small network stands for the
recipe's, and a stylizer without weights for AdaIN, which tests/test_stylizers.py compares by itself.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from timm_debias.flags import parse_with_yaml
from timm_debias.machine import Machine
from timm_debias.mix import draw_partners
from timm_debias.stylizers import Stylizer
from timm_debias.training import debias as debias_module
from timm_debias.training.bad_images import Report
from timm_debias.training.loop import Run, train_one_epoch
from timm_debias.training.main import build_parser, config_from_args
from timm_debias.training.meters import Meters
from timm_debias.training.model import build_model, build_task, resolve_input
from timm_debias.training.optim import build_optimizer, build_scheduler, resolve_lr
from timm_debias.training.state import Position, set_schedule

HPARAMS = Path(__file__).parents[1] / 'hparams'
MEAN, STD = (
    torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
)
BATCH, SIZE, CLASSES, STEPS = 4, 48, 10, 3
# Weight decay moves a weight by 5e-6 in three steps, so this sees it; soft targets of timm are float32, worth 4e-8.
TOLERANCE = 1e-7


@dataclass(frozen=True)
class Recipe:
    """Command line of the reference."""

    schedule: list
    epochs: int
    base_lr: float
    multi_grid: bool = True
    min_size: int = SIZE // 2
    mixup: float = 0.0
    cutmix: float = 0.0
    label_gamma: float = 0.8
    groups: int = 1


RECIPES = {
    'resnet50': Recipe([30, 60, 90], 100, 0.2),
    'resnet101': Recipe([30, 60, 90], 100, 0.1),
    'resnet152': Recipe([30, 60, 90], 100, 0.1),
    'resnext101_32x4d_mixup': Recipe([60, 120, 160], 180, 0.1, min_size=43, mixup=0.4, groups=32),
    'resnext101_32x4d_cutmix': Recipe([75, 150, 180], 210, 0.1, multi_grid=False, cutmix=1.0, groups=32),
    'resnet50_shape_biased': Recipe([30, 60, 90], 100, 0.2, label_gamma=1.0),
    'resnet50_texture_biased': Recipe([30, 60, 90], 100, 0.2, label_gamma=0.0),
}


class MixBatchNorm(nn.BatchNorm2d):
    """Main and auxiliary batch norm of the reference."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.aux_bn = nn.BatchNorm2d(channels)
        self.status = 'clean'

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.status == 'clean':
            return super().forward(x)
        if self.status == 'adv':
            return self.aux_bn(x)
        half = len(x) // 2
        return torch.cat([super().forward(x[:half]), self.aux_bn(x[half:])])


def set_status(model: nn.Module, status: str) -> None:
    for module in model.modules():
        if isinstance(module, MixBatchNorm):
            module.status = status


def mean_std(features):
    flat = features.flatten(2)
    return flat.mean(2)[..., None, None], (flat.var(2) + 1e-5).sqrt()[..., None, None]


def stylise(content, style, alpha=0.5):
    """AdaIN on pixels: the reference's pipeline with identities for encoder and decoder."""
    (content_mean, content_std), (style_mean, style_std) = mean_std(content), mean_std(style)
    transferred = (content - content_mean) / content_std * style_std + style_mean
    return alpha * transferred + (1 - alpha) * content


class PixelStylizer(Stylizer):
    """The same as a stylizer."""

    def mix(self, images, permutation, alpha=1.0):
        return stylise(images, images[permutation], alpha)


def image_size(batch, epoch, recipe):
    size = float(SIZE)
    if batch % 2 == 0:
        size /= 2**0.5
    ends = [0, *recipe.schedule, recipe.epochs]
    for start, end in pairwise(ends):
        if start <= epoch < end and epoch < (start + end) / 2:
            size /= 2**0.5
    return max(int(size + 0.5), recipe.min_size)


def learning_rate(batch, epoch, recipe):
    if epoch < 5:
        return recipe.base_lr * (epoch * STEPS + batch + 1) / (5 * STEPS)
    return recipe.base_lr * 0.1 ** sum(epoch >= decay for decay in recipe.schedule)


def mix_clean(clean, labels, recipe, draws):
    """Mix the clean images in place; returns the second labels and their weight."""
    if not recipe.mixup and not recipe.cutmix:
        return labels, 0.0
    draws.rand()  # timm first draws whether to mix, here with probability 1.
    alpha = recipe.mixup or recipe.cutmix
    weight = 1 - draws.beta(alpha, alpha)
    index = torch.arange(len(clean)).flip(0)  # timm mixes with the batch in reverse order.
    if recipe.mixup:
        clean[:] = (1 - weight) * clean + weight * clean[index]
        return labels[index], weight
    # Where the side of the box is odd, timm takes a pixel more than the reference, so sides are even here.
    side = int(SIZE * weight**0.5)
    assert side % 2 == 0
    centre_y, centre_x = draws.randint(SIZE), draws.randint(SIZE)
    top, bottom, left, right = np.clip(
        [centre_y - side // 2, centre_y + side // 2, centre_x - side // 2, centre_x + side // 2], 0, SIZE
    )
    clean[:, :, top:bottom, left:right] = clean[index][:, :, top:bottom, left:right]
    return labels[index], (bottom - top) * (right - left) / SIZE**2


def reference_epoch(model, batches, recipe, epoch, seed):
    """Train as the reference does and return the loss of each step."""
    partners_of = torch.Generator().manual_seed(42)
    draws = np.random.RandomState(seed)
    momentum = [torch.zeros_like(parameter) for parameter in model.parameters()]
    losses = []
    model.train()
    for number, (images, labels) in enumerate(batches):
        permutation = draw_partners(len(images), partners_of)
        size = image_size(number, epoch, recipe) if recipe.multi_grid else SIZE
        shrunk = F.interpolate(images, size=(size, size))
        stylised = stylise(shrunk, shrunk[permutation])
        clean = images.clone()
        second, weight = mix_clean(clean, labels, recipe, draws)
        clean, stylised = (clean - MEAN) / STD, (stylised - MEAN) / STD
        if recipe.multi_grid:
            set_status(model, 'clean')
            clean_output = model(clean)
            set_status(model, 'adv')
            outputs = torch.cat([clean_output, model(stylised)])
        else:
            set_status(model, 'mix')
            outputs = model(torch.cat([clean, stylised]))
        first = torch.cat([labels, labels])
        second = torch.cat([second, labels[permutation]])
        share = torch.tensor([weight] * BATCH + [1 - recipe.label_gamma] * BATCH, dtype=torch.float64)
        losses_of = nn.CrossEntropyLoss(reduction='none')
        loss = ((1 - share) * losses_of(outputs, first) + share * losses_of(outputs, second)).mean()
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        lr = learning_rate(number, epoch, recipe)
        with torch.no_grad():
            for parameter, velocity in zip(model.parameters(), momentum, strict=True):
                velocity.mul_(0.9).add_(parameter.grad + 1e-4 * parameter)
                parameter -= lr * velocity
    return losses


def our_epoch(name, recipe, state, batches, epoch, seed, monkeypatch):
    """Train with the recipe's flags and return the loss of each step and the state of the model."""
    model = ['--model', 'resnext50_32x4d' if recipe.groups > 1 else 'resnet18', '--num-classes', str(CLASSES)]
    sizes = ['--img-size', str(SIZE), '-b', str(BATCH), '--lr', str(recipe.base_lr), '--device', 'cpu']
    if 'debias_min_size' in yaml.safe_load((HPARAMS / f'{name}.yaml').read_text()):
        sizes += ['--debias-min-size', str(recipe.min_size)]
    shape = ['--model-kwargs', 'layers=[1,1,1,1]', 'zero_init_last=False']
    argv = ['-c', str(HPARAMS / f'{name}.yaml'), *model, *sizes, *shape]
    config = config_from_args(parse_with_yaml(build_parser(), argv))
    machine = Machine(torch.device('cpu'))
    model = build_model(config, machine).double()
    input_config = resolve_input(config, model, verbose=False)
    monkeypatch.setattr(debias_module, 'create_stylizer', lambda *_: PixelStylizer())
    task = build_task(config, model, input_config, CLASSES, machine)
    model.load_state_dict(state)
    losses = []
    task.register_forward_hook(lambda *call: losses.append(call[-1]['loss'].item()))
    optimizer = build_optimizer(resolve_lr(config, config.model.batch_size, machine), model)
    scheduler, _ = build_scheduler(config, optimizer, STEPS)
    normalised = [((images - MEAN) / STD, labels) for images, labels in batches]
    np.random.seed(seed)
    run = Run(config, machine, task, Loader(normalised), optimizer, scheduler, num_epochs=epoch + 1)
    set_schedule(run, Position(epoch))
    train_one_epoch(run, epoch, Meters(machine))
    return losses, model.state_dict()


class Loader(list):
    """Batches, with the parts of a loader that the training loop looks at."""

    report = Report()

    def set_position(self, epoch, batch):
        assert batch == 0


def create_reference(recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    block, width = (Bottleneck, 4) if recipe.groups > 1 else (BasicBlock, 64)
    return ResNet(
        block, [1, 1, 1, 1], num_classes=CLASSES, groups=recipe.groups, width_per_group=width, norm_layer=MixBatchNorm
    ).double()


def seed_of_even_boxes(recipe: Recipe) -> int:
    """Return a seed for numpy whose boxes of CutMix have even sides."""
    for seed in range(100):
        draws = np.random.RandomState(seed)
        sides = []
        for _ in range(STEPS):
            draws.rand()
            sides.append(int(SIZE * (1 - draws.beta(recipe.cutmix or 1, recipe.cutmix or 1)) ** 0.5))
            draws.randint(SIZE), draws.randint(SIZE)
        if all(side % 2 == 0 and side > 8 for side in sides):
            return seed
    raise AssertionError


@pytest.mark.parametrize('is_late', [False, True], ids=['warm-up', 'after a decay'])
@pytest.mark.parametrize('name', RECIPES)
def test_three_steps(name, is_late, monkeypatch):
    recipe = RECIPES[name]
    epoch = recipe.schedule[1] - 5 if is_late else 0  # In the second half of a stage, where sizes are larger.
    generator = torch.Generator().manual_seed(1)
    tint = torch.rand(STEPS * BATCH, 3, 1, 1, generator=generator)
    images = (0.5 * torch.rand(STEPS * BATCH, 3, SIZE, SIZE, generator=generator) + 0.5 * tint).double()
    labels = torch.randint(CLASSES, (STEPS * BATCH,), generator=generator)
    batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    reference = create_reference(recipe)
    state = OrderedDict((name, tensor.clone()) for name, tensor in reference.state_dict().items())
    seed = seed_of_even_boxes(recipe)

    ours, weights = our_epoch(name, recipe, state, batches, epoch, seed, monkeypatch)
    expected = reference_epoch(reference, batches, recipe, epoch, seed)
    assert ours == pytest.approx(expected, abs=TOLERANCE)
    assert set(weights) == set(reference.state_dict())
    for key, tensor in reference.state_dict().items():
        torch.testing.assert_close(
            weights[key], tensor, atol=TOLERANCE, rtol=0, msg=lambda text, key=key: f'{key}: {text}'
        )
        if key.endswith('num_batches_tracked'):
            assert tensor == STEPS
    assert not torch.allclose(weights['conv1.weight'], state['conv1.weight'], atol=1e-4)
