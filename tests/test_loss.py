"""The dual-target loss against its formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.loss import (
    AsymmetricLossSingleLabel,
    BinaryCrossEntropy,
    JsdCrossEntropy,
    LabelSmoothingCrossEntropy,
    PolyCrossEntropy,
    SoftTargetCrossEntropy,
)
from torch import nn

from timm_debias import DebiasError, DualTargetLoss

BASES = [
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(label_smoothing=0.1),
    LabelSmoothingCrossEntropy(0.1),
    BinaryCrossEntropy(smoothing=0.1),
    BinaryCrossEntropy(smoothing=0.0, sum_classes=True, pos_weight=2.0),
    PolyCrossEntropy(epsilon=2.0, smoothing=0.1),
]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(16, 7, generator=generator, dtype=torch.float64)
    shape = torch.randint(7, (16,), generator=generator)
    texture = torch.randint(7, (16,), generator=generator)
    return logits, shape, texture


@pytest.mark.parametrize('base', BASES, ids=repr)
@pytest.mark.parametrize('gamma', [0.0, 0.3, 0.8, 1.0])
def test_formula(batch, base, gamma):
    logits, shape, texture = batch
    expected = gamma * base(logits, shape) + (1 - gamma) * base(logits, texture)
    torch.testing.assert_close(DualTargetLoss(base, gamma)(logits, shape, texture), expected)


def test_cross_entropy_by_hand(batch):
    """-Σ_c (γ 1_y + (1-γ) 1_y') log softmax(o)_c, written out image by image, with the paper's γ, the default."""
    logits, shape, texture = batch
    total = 0.0
    for row, y, other in zip(logits, shape, texture, strict=True):
        log_z = torch.log(sum(torch.exp(value) for value in row))
        total += 0.8 * (log_z - row[y]) + 0.2 * (log_z - row[other])
    torch.testing.assert_close(DualTargetLoss(nn.CrossEntropyLoss())(logits, shape, texture), total / len(logits))


@pytest.mark.parametrize(
    ('hard', 'soft'),
    [
        (nn.CrossEntropyLoss(), SoftTargetCrossEntropy()),
        (BinaryCrossEntropy(smoothing=0.0), BinaryCrossEntropy(smoothing=0.0)),
        (PolyCrossEntropy(smoothing=0.0), PolyCrossEntropy(smoothing=0.0)),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_equals_the_base_on_the_mixed_soft_target(batch, hard, soft):
    """What makes γ a label: the loss is that of one target γ·shape + (1 − γ)·texture."""
    logits, shape, texture = batch
    shape_soft, texture_soft = (F.one_hot(target, 7).double() for target in (shape, texture))
    mixed = soft(logits, 0.8 * shape_soft + 0.2 * texture_soft)
    torch.testing.assert_close(DualTargetLoss(hard, 0.8)(logits, shape, texture), mixed, check_dtype=False)
    torch.testing.assert_close(DualTargetLoss(soft, 0.8)(logits, shape_soft, texture_soft), mixed, check_dtype=False)


def test_minimum_is_at_the_mixed_label():
    """Gradient descent on the logits ends in the probabilities γ and 1 − γ."""
    logits = torch.zeros(1, 4, requires_grad=True)
    loss = DualTargetLoss(nn.CrossEntropyLoss(), 0.8)
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(2000):
        optimizer.zero_grad()
        loss(logits, torch.tensor([2]), torch.tensor([0])).backward()
        optimizer.step()
    torch.testing.assert_close(logits.softmax(-1), torch.tensor([[0.2, 0.0, 0.8, 0.0]]), atol=2e-3, rtol=0)


def test_clean_images_have_one_label(batch):
    logits, shape, _ = batch
    base = nn.CrossEntropyLoss()
    assert DualTargetLoss(base, 0.8)(logits, shape) == base(logits, shape)


@pytest.mark.parametrize(('gamma', 'shape', 'texture'), [(1.0, 0, 1), (0.0, 1, 0)])
def test_a_label_without_weight_does_not_count(gamma, shape, texture):
    """Not even where its loss is infinite, which 0 times would make NaN."""
    logits = torch.tensor([[0.0, -math.inf]])
    loss = DualTargetLoss(nn.CrossEntropyLoss(), gamma)
    assert loss(logits, torch.tensor([shape]), torch.tensor([texture])) == 0


class SquaredCrossEntropy(nn.CrossEntropyLoss):
    """A subclass need not be linear because its parent is."""

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().forward(logits, target) ** 2


@pytest.mark.parametrize(
    'base',
    [
        AsymmetricLossSingleLabel(),
        JsdCrossEntropy(),
        BinaryCrossEntropy(target_threshold=0.2),
        BinaryCrossEntropy(target_threshold=0.0),
        SquaredCrossEntropy(),
        nn.CrossEntropyLoss(weight=torch.ones(7)),
        nn.MSELoss(),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_refuses_what_is_not_linear_in_the_target(base):
    with pytest.raises(DebiasError, match=f'{type(base).__name__}.*linear in'):
        DualTargetLoss(base)


@pytest.mark.parametrize('gamma', [-0.1, 1.1, float('nan')])
def test_refuses_gamma_outside_the_unit_interval(gamma):
    with pytest.raises(DebiasError, match='gamma is'):
        DualTargetLoss(nn.CrossEntropyLoss(), gamma)
