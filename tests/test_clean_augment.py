"""What happens to the clean half: Mixup and CutMix as timm draws them, then erasing."""

import numpy as np
import pytest
import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing

from timm_debias import DebiasError
from timm_debias.clean_augment import CleanAugment

LABELS = torch.arange(8)


def erasing() -> RandomErasing:
    return RandomErasing(probability=1.0, mode='const', device='cpu')


def test_nothing_to_do_returns_what_it_was_given(images):
    augment = CleanAugment()
    augmented, targets = augment(images, LABELS)
    assert augmented is images
    assert targets is LABELS
    assert augment.targets(LABELS) is LABELS


def test_mixup_against_its_formula(images):
    np.random.seed(0)
    augmented, targets = CleanAugment(Mixup(mixup_alpha=0.4, label_smoothing=0.1, num_classes=10))(images, LABELS)
    draws = np.random.RandomState(0)
    draws.rand()  # Whether to mix at all.
    share = draws.beta(0.4, 0.4)
    torch.testing.assert_close(augmented, share * images + (1 - share) * images.flip(0))
    smooth = 0.9 * torch.eye(10)[:8] + 0.01
    torch.testing.assert_close(targets, share * smooth + (1 - share) * smooth.flip(0))


def test_cutmix_weighs_labels_by_the_area_of_the_box(images):
    np.random.seed(1)
    augmented, targets = CleanAugment(Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=10))(
        images, LABELS
    )
    pasted = (augmented == images.flip(0)).all(dim=1)
    kept = (augmented == images).all(dim=1)
    assert (pasted | kept).all()
    torch.testing.assert_close(targets[0, 7], pasted[0].float().mean())
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


def test_images_of_the_loader_stay_as_they_are(images):
    before = images.clone()
    CleanAugment(Mixup(num_classes=10), erasing())(images, LABELS)
    assert torch.equal(images, before)


def test_erasing_comes_after_mixing(images):
    """Erased rectangles are empty, not mixed with the other image."""
    np.random.seed(0)
    augmented, _ = CleanAugment(Mixup(num_classes=10), erasing())(images + 1, LABELS)
    empty = (augmented == 0).all(dim=1).flatten(1).float().mean(dim=1)
    assert ((empty > 0.01) & (empty < 0.4)).all()
    assert ((augmented == 0) | (augmented > 0.9)).all()


def test_erasing_alone_keeps_the_labels(images):
    augmented, targets = CleanAugment(erasing=erasing())(images, LABELS)
    assert targets is LABELS
    assert not torch.equal(augmented, images)


def test_switched_off_targets_stay_soft(images):
    augment = CleanAugment(Mixup(label_smoothing=0.1, num_classes=10))
    augment.mixup_enabled = False
    augmented, targets = augment(images, LABELS)
    assert torch.equal(augmented, images)
    torch.testing.assert_close(targets, 0.9 * torch.eye(10)[:8] + 0.01)
    torch.testing.assert_close(augment.targets(LABELS), targets)


def test_refuses_an_odd_batch(images):
    with pytest.raises(DebiasError, match='a batch has 7'):
        CleanAugment(Mixup(num_classes=10))(images[:7], LABELS[:7])
