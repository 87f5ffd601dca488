"""The restated step of the reference against this package's, with the same weights and partners."""

import pytest
import torch
from torch import nn

from timm_debias.benchmark import reference
from timm_debias.benchmark.reference import MixedBatchNorm2d, reference_step
from timm_debias.benchmark.steps import Setup
from timm_debias.loss import DualTargetLoss
from timm_debias.stylizers.adain_vgg19 import AdainVgg19

SETUP = Setup('test_resnet', 32, 4, torch.device('cpu'))


def copy_convolutions(source: nn.Module, target: nn.Module) -> None:
    convolutions = [[m for m in module.modules() if isinstance(m, nn.Conv2d)] for module in (source, target)]
    for ours, theirs in zip(*convolutions, strict=True):
        theirs.load_state_dict({'weight': ours.weight, 'bias': ours.bias})


def test_stylised_images_are_those_of_adain_vgg19():
    torch.manual_seed(0)
    stylizer = AdainVgg19().eval().requires_grad_(False)
    encoder = nn.Sequential(nn.Conv2d(3, 3, 1), *reference._layers(reference._ENCODER))
    decoder = nn.Sequential(*reference._layers(reference._DECODER)[:-1])
    copy_convolutions(stylizer.encoder, encoder)
    copy_convolutions(stylizer.decoder, decoder)
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([5, 6, 7, 8])
    torch.manual_seed(1)
    both, (first, second, weight) = reference._stylised(encoder, decoder, images, labels)
    torch.manual_seed(1)
    partners = torch.randperm(4)
    assert torch.equal(both[:4], images)
    torch.testing.assert_close(both[4:], stylizer.mix(images, partners, 0.5), atol=1e-4, rtol=1e-4)
    assert first.tolist() == [5, 6, 7, 8] * 2
    assert second.tolist()[4:] == labels[partners].tolist()
    assert weight.tolist() == pytest.approx([0, 0, 0, 0, 0.2, 0.2, 0.2, 0.2])


def test_loss_is_that_of_both_halves():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 10, generator=generator)
    labels, partners = torch.arange(4), torch.tensor([3, 0, 1, 2])
    weight = torch.tensor([0.0] * 4 + [0.2] * 4)
    criterion = DualTargetLoss(nn.CrossEntropyLoss(), 0.8)
    expected = (criterion(logits[:4], labels) + criterion(logits[4:], labels, labels[partners])) / 2
    found = reference._loss(logits, labels.repeat(2), labels[partners].repeat(2), weight)
    torch.testing.assert_close(found, expected)


def test_batch_norm_of_halves():
    torch.manual_seed(0)
    norm = MixedBatchNorm2d(3)
    norm.aux_bn = nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(norm(x), torch.cat([nn.BatchNorm2d(3)(x[:2]), nn.BatchNorm2d(3)(x[2:])]))


def test_step_trains_every_parameter():
    step = reference_step(SETUP)
    module = step.trained.module
    head = module.fc.weight.clone()
    step()
    assert any('aux_bn' in name for name, _ in module.named_parameters())
    assert set(step.trained.optimizer.state) == set(module.parameters()), 'every parameter had a gradient'
    assert not torch.equal(head, module.fc.weight)


def test_no_step_for_models_that_the_reference_cannot_train():
    assert reference_step(Setup('test_efficientnet', 32, 4, SETUP.device)) is None
    assert reference_step(Setup('test_vit', 160, 4, SETUP.device)) is None
