"""The loss that the flags name, against formulas written out."""

import json

import pytest
import torch
import torch.nn.functional as F

from timm_debias import DebiasError
from timm_debias.training.criterion import build_criterion
from timm_debias.training.main import build_parser, config_from_args


def build(*argv: str, num_classes: int | None = 3):
    return build_criterion(config_from_args(build_parser().parse_args([*map(str, argv)])), num_classes)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


TARGET = torch.tensor([0, 2, 1, 1, 0])
ONE_HOT = F.one_hot(TARGET, 3).float()
MULTI_HOT = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]])


def test_single_label_losses(logits):
    ce = F.cross_entropy(logits, TARGET, label_smoothing=0.1)
    torch.testing.assert_close(build()(logits, TARGET), ce)
    plain = F.cross_entropy(logits, TARGET, reduction='none')
    torch.testing.assert_close(build('--smoothing', 0)(logits, TARGET), plain.mean())
    bce = F.binary_cross_entropy_with_logits(logits, ONE_HOT, reduction='none')
    torch.testing.assert_close(build('--bce-loss', '--smoothing', 0)(logits, TARGET), bce.mean())
    summed = build('--loss', 'bce', '--bce-sum', '--smoothing', 0)(logits, TARGET)
    torch.testing.assert_close(summed, bce.sum(dim=1).mean())
    poly = plain + 3 * (1 - (-plain).exp())  # Poly-1: CE + epsilon (1 - p).
    built = build('--loss', 'poly', '--poly-epsilon', 3, '--smoothing', 0)
    torch.testing.assert_close(built(logits, TARGET), poly.mean())
    soft = build('--mixup', 0.2)(logits, ONE_HOT)
    torch.testing.assert_close(soft, plain.mean())


def test_jsd_compares_the_splits(logits):
    copies = torch.cat([logits, logits])
    loss = build('--loss', 'jsd', '--aug-splits', 2)
    # Equal copies diverge by nothing, so the cross-entropy of the first split is left.
    expected = F.cross_entropy(logits, TARGET, label_smoothing=0.1)
    torch.testing.assert_close(loss(copies, TARGET.repeat(2)), expected)
    assert loss(torch.cat([logits, -logits]), TARGET.repeat(2)) > expected


def test_weights_of_positives_and_classes(logits, tmp_path):
    stats = tmp_path / 'stats.json'
    stats.write_text(json.dumps({'pos_counts': [2, 4, 8], 'num_samples': 10}))
    multilabel = ['--task', 'multilabel', '--loss', 'bce']
    expected = F.binary_cross_entropy_with_logits(logits, MULTI_HOT, pos_weight=torch.tensor([4.0, 1.5, 0.25]))
    built = build(*multilabel, '--class-stats', stats, '--loss-pos-weight', 'neg_pos')
    torch.testing.assert_close(built(logits, MULTI_HOT), expected)
    expected = F.binary_cross_entropy_with_logits(logits, MULTI_HOT, pos_weight=torch.tensor([2.0, 1.5**0.5, 0.5]))
    built = build(*multilabel, '--class-stats', stats, '--loss-pos-weight', 'neg_pos', '--loss-weight-power', 0.5)
    torch.testing.assert_close(built(logits, MULTI_HOT), expected)
    expected = F.binary_cross_entropy_with_logits(logits, MULTI_HOT, weight=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(build(*multilabel, '--loss-class-weight', '1,2,3')(logits, MULTI_HOT), expected)
    expected = F.binary_cross_entropy_with_logits(logits, ONE_HOT, pos_weight=torch.tensor(2.0))
    built = build('--bce-loss', '--bce-pos-weight', 2, '--smoothing', 0)
    torch.testing.assert_close(built(logits, TARGET), expected)
    for loss in ('asl', 'poly', 'twoway', 'zlpr', 'db'):
        extra = ['--class-stats', stats] if loss == 'db' else []
        assert build('--task', 'multilabel', '--loss', loss, *extra)(logits, MULTI_HOT).isfinite()


@pytest.mark.parametrize(
    ('argv', 'part'),
    [
        (['--loss', 'zlpr'], 'multi-label'),
        (['--task', 'multilabel', '--loss', 'ce'], 'multi-label'),
        (['--task', 'multilabel', '--loss', 'twoway', '--mixup', '0.5'], 'Mixup'),
        (['--task', 'multilabel', '--loss', 'zlpr', '--loss-pos-weight', '2'], 'weights'),
        (['--task', 'multilabel', '--loss', 'db'], 'class_counts'),
        (['--task', 'multilabel', '--loss-pos-weight', 'neg_pos'], 'class stats'),
        (['--task', 'multilabel', '--loss-class-weight', 'missing.json'], 'missing.json'),
        (['--task', 'multilabel', '--loss-class-weight', '1,2'], '2 entries and the model has 3 classes'),
        (['--loss', 'ce', '--bce-target-thresh', '0.2'], 'BCE target threshold'),
        (['--loss-pos-weight', 'nonsense'], 'nonsense'),
    ],
    ids=' '.join,
)
def test_refusals(argv, part):
    with pytest.raises(DebiasError, match='--loss') as caught:
        build(*argv)
    assert part in str(caught.value)


def test_counts_of_other_classes(tmp_path):
    stats = tmp_path / 'stats.json'
    stats.write_text(json.dumps({'pos_counts': [2, 4], 'num_samples': 10}))
    with pytest.raises(DebiasError, match='--class-stats has 2 entries and the model has 3 classes'):
        build('--task', 'multilabel', '--loss', 'db', '--class-stats', stats)
    stats.write_text('{}')
    with pytest.raises(DebiasError, match='pos_counts'):
        build('--task', 'multilabel', '--loss', 'db', '--class-stats', stats)
