"""Partners and their labels."""

import math
from collections import Counter

import pytest
import torch
from timm.loss import SoftTargetCrossEntropy

from timm_debias import DebiasError, DualTargetLoss, ShapeTextureMix, StyleBank
from timm_debias.mix import StyleBankMix, finite_images, nan_unless


def test_no_image_is_its_own_partner(colour_stylizer):
    mix = ShapeTextureMix(colour_stylizer, generator=torch.Generator().manual_seed(0))
    for size in (2, 3, 4, 7, 64):
        for _ in range(50):
            partners = mix.sample(size)
            assert sorted(partners.tolist()) == list(range(size))
            assert not (partners == torch.arange(size)).any()


def test_partners_are_uniform_over_derangements(colour_stylizer):
    """Four images have 9 derangements; 9,000 draws give each about 1,000 (chi-square, 8 degrees, p = 0.001: 26.1)."""
    mix = ShapeTextureMix(colour_stylizer, generator=torch.Generator().manual_seed(0))
    counts = Counter(tuple(mix.sample(4).tolist()) for _ in range(9000))
    assert len(counts) == 9
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 26.1


def test_same_generator_same_partners(colour_stylizer, images):
    labels = torch.arange(8)
    first, second = (
        ShapeTextureMix(colour_stylizer, generator=torch.Generator().manual_seed(3))(images, labels) for _ in range(2)
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_images_and_labels_come_from_the_same_partner(colour_stylizer, images):
    """The colour stylizer at full strength gives each image its partner's mean colour, and the label says whose."""
    mix = ShapeTextureMix(colour_stylizer, alpha=1.0, generator=torch.Generator().manual_seed(0))
    stylised, texture_labels = mix(images, torch.arange(8))
    torch.testing.assert_close(stylised.mean((2, 3)), images[texture_labels].mean((2, 3)), atol=1e-5, rtol=0)
    assert not (texture_labels == torch.arange(8)).any()


def test_alpha_zero_keeps_the_images(colour_stylizer, images):
    stylised, _ = ShapeTextureMix(colour_stylizer, alpha=0.0)(images, torch.arange(8))
    torch.testing.assert_close(stylised, images)


def test_soft_labels_and_half_precision(colour_stylizer, images):
    labels = torch.eye(8)
    mix = ShapeTextureMix(colour_stylizer, generator=torch.Generator().manual_seed(0))
    stylised, texture_labels = mix(images.bfloat16(), labels)
    assert stylised.dtype == torch.bfloat16
    assert texture_labels.shape == (8, 8)
    assert texture_labels.diagonal().sum() == 0


def test_stylizer_is_frozen_and_never_in_train_mode(colour_stylizer, images):
    mix = ShapeTextureMix(colour_stylizer.train())
    assert not mix.stylizer.training
    stylised, _ = mix(images.requires_grad_(), torch.arange(8))
    assert not stylised.requires_grad


@pytest.mark.parametrize('size', [0, 1])
def test_refuses_a_batch_without_partners(colour_stylizer, size):
    with pytest.raises(DebiasError, match=f'a batch of {size} has no texture partners'):
        ShapeTextureMix(colour_stylizer).sample(size)


@pytest.mark.parametrize('alpha', [-0.1, 1.5])
def test_refuses_alpha_outside_the_unit_interval(colour_stylizer, alpha):
    with pytest.raises(DebiasError, match='alpha is'):
        ShapeTextureMix(colour_stylizer, alpha)


def test_strengths_of_the_papers(colour_stylizer, images):
    """Half of it between images of a batch, all of it with the textures of Stylized-ImageNet."""
    assert ShapeTextureMix(colour_stylizer).alpha == 0.5
    assert StyleBankMix(StyleBank(colour_stylizer, images)).alpha == 1


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_images_that_are_not_finite(images, value):
    """Zeros take their place; the others are untouched, to the last bit."""
    spoilt = images.clone()
    spoilt[3, 1, 7, 7] = value
    cleaned, finite = finite_images(spoilt)
    assert finite.tolist() == [number != 3 for number in range(8)]
    assert torch.equal(cleaned, images * finite.view(8, 1, 1, 1))
    assert nan_unless(finite, torch.ones(2)).isnan().all()
    assert nan_unless(torch.ones(2, dtype=torch.bool), torch.ones(2)).tolist() == [1, 1]


def test_finite_images_in_channels_last(images):
    cleaned, _ = finite_images(images.contiguous(memory_format=torch.channels_last))
    assert cleaned.is_contiguous(memory_format=torch.channels_last)


class TestMixupSlot:
    """`mixup_fn(images, labels) -> (images, soft targets)` as timm's loops call it."""

    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)

    def normalised(self, images):
        return (images - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)

    def create(self, stylizer, **options):
        mix = ShapeTextureMix(stylizer, alpha=1.0, generator=torch.Generator().manual_seed(0))
        return mix.as_mixup_fn(num_classes=10, mean=self.mean, std=self.std, **options)

    def test_returns_clean_and_stylised_images_with_soft_targets(self, colour_stylizer, images):
        batch = self.normalised(images)
        mixed, targets = self.create(colour_stylizer)(batch, torch.arange(8))
        assert mixed.shape == (16, 3, 32, 32)
        assert targets.shape == (16, 10)
        assert torch.equal(mixed[:8], batch)
        assert torch.equal(targets[:8], torch.eye(10)[:8])
        torch.testing.assert_close(targets.sum(-1), torch.ones(16))
        texture = (targets[8:] - 0.8 * torch.eye(10)[:8]).argmax(-1)
        torch.testing.assert_close(targets[8:], 0.8 * torch.eye(10)[:8] + 0.2 * torch.eye(10)[texture])
        torch.testing.assert_close(mixed[8:].mean((2, 3)), batch[texture].mean((2, 3)), atol=1e-5, rtol=0)

    def test_soft_target_loss_equals_the_dual_target_loss(self, colour_stylizer, images):
        _, targets = self.create(colour_stylizer)(self.normalised(images), torch.arange(8))
        logits = torch.randn(16, 10, generator=torch.Generator().manual_seed(0))
        texture = (targets[8:] - 0.8 * torch.eye(10)[:8]).argmax(-1)
        dual = DualTargetLoss(torch.nn.CrossEntropyLoss(), 0.8)
        expected = (dual(logits[:8], torch.arange(8)) + dual(logits[8:], torch.arange(8), texture)) / 2
        torch.testing.assert_close(SoftTargetCrossEntropy()(logits, targets), expected)

    def test_smoothing(self, colour_stylizer, images):
        _, targets = self.create(colour_stylizer, smoothing=0.1)(self.normalised(images), torch.arange(8))
        torch.testing.assert_close(targets[0, 0], torch.tensor(0.91))

    def test_stylised_images_that_are_not_finite(self, colour_stylizer, images):
        colour_stylizer.decode = lambda features, style, alpha: features[0].index_fill(0, torch.tensor([5]), math.nan)
        mixed, targets = self.create(colour_stylizer)(self.normalised(images), torch.arange(8))
        assert mixed.isfinite().all()
        assert SoftTargetCrossEntropy()(torch.ones(16, 10), targets).isnan()
        assert torch.equal(targets[:8], torch.eye(10)[:8])

    def test_off_epoch(self, colour_stylizer, images):
        mixup_fn = self.create(colour_stylizer)
        mixup_fn.mixup_enabled = False
        mixed, targets = mixup_fn(images, torch.arange(8))
        assert torch.equal(mixed, images)
        assert torch.equal(targets, torch.eye(10)[:8])


class TestStyleBankMix:
    """Styles of a bank in place of the batch's."""

    @pytest.fixture
    def mix(self, colour_stylizer, images):
        bank = StyleBank(colour_stylizer, images[:3])
        return StyleBankMix(bank, alpha=1.0, generator=torch.Generator().manual_seed(0))

    def test_images_get_the_styles_drawn(self, mix, images):
        drawn = mix.sample(8)
        stylised, texture_labels = mix.apply(images.flip(0), torch.arange(8), drawn)
        torch.testing.assert_close(stylised.mean((2, 3)), images[drawn].mean((2, 3)), atol=1e-5, rtol=0)
        assert texture_labels is None

    def test_styles_are_drawn_uniformly(self, mix):
        """6,000 draws of 3 styles (chi-square, 2 degrees, p = 0.001: 13.8)."""
        counts = mix.sample(6000).bincount(minlength=3)
        assert ((counts - 2000) ** 2 / 2000).sum() < 13.8

    def test_same_generator_same_styles(self, mix, colour_stylizer, images):
        again = StyleBankMix(mix.bank, generator=torch.Generator().manual_seed(0))
        assert torch.equal(again.sample(8), mix.sample(8))

    def test_image_that_is_not_finite(self, mix, colour_stylizer, images):
        """In a data worker, where an image is stylised on its own."""
        colour_stylizer.decode = lambda features, style, alpha: features[0] * math.nan
        with pytest.raises(DebiasError, match='NaN or infinite values for style 2'):
            mix.bank.apply(images[0], 2, 1.0)

    def test_half_precision_is_stylised_in_float32(self, mix, images):
        images, drawn = images.half(), mix.sample(8)
        stylised, _ = mix.apply(images, torch.arange(8), drawn)
        expected, _ = mix.apply(images.float(), torch.arange(8), drawn)
        torch.testing.assert_close(stylised, expected.half(), rtol=0, atol=0)

    def test_styles_of_another_size(self, mix, images):
        stylised, _ = mix.apply(images[:, :, :20, :24], torch.arange(8), mix.sample(8))
        assert stylised.shape == (8, 3, 20, 24)

    def test_refuses_alpha_outside_the_unit_interval(self, mix):
        with pytest.raises(DebiasError, match='alpha is 2'):
            StyleBankMix(mix.bank, alpha=2)
