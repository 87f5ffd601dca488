"""Scores against plain loops."""

import math

import pytest
import torch

from timm_debias.validation.scores import (
    ClassAccuracy,
    ConflictDecisions,
    SubsetAccuracy,
    SubsetConfidence,
    TopK,
    share,
)

LOGITS = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 12, (40,), generator=torch.Generator().manual_seed(1))


def counted(score, targets, logits=LOGITS):
    for start in range(0, len(logits), 7):
        score.update(logits[start : start + 7], targets[start : start + 7])
    return score.state()


def test_top_k():
    top1 = top5 = 0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        ranked = sorted(range(12), key=lambda index: -row[index])
        top1 += ranked[0] == label
        top5 += label in ranked[:5]
    assert counted(TopK(), LABELS) == {'images': 40, 'top1': top1, 'top5': top5}
    assert 0 < top1 < top5 < 40


def test_top_k_of_several_labels():
    targets = torch.stack([LABELS, (LABELS + 3) % 12, torch.full_like(LABELS, -1)], dim=1)
    pairs = [{label, (label + 3) % 12} for label in LABELS.tolist()]
    ranked = LOGITS.argsort(dim=1, descending=True).tolist()
    top1 = sum(row[0] in pair for row, pair in zip(ranked, pairs, strict=True))
    top5 = sum(bool(pair & {*row[:5]}) for row, pair in zip(ranked, pairs, strict=True))
    assert counted(TopK(), targets) == {'images': 40, 'top1': top1, 'top5': top5}


def test_top_k_of_few_classes():
    assert counted(TopK(), LABELS % 3, LOGITS[:, :3])['top5'] == 40


def test_right_images():
    subset, groups = [1, 4, 5, 9], [[0], [1, 2, 3], [4, 5]]
    best = LOGITS.topk(1, dim=1).indices[:, 0]
    assert torch.equal(TopK().update(LOGITS, LABELS), best == LABELS)
    score = SubsetAccuracy(subset)
    labels = torch.tensor(subset)[LABELS % 4]
    assert score.update(LOGITS, labels).int().tolist() == score.state()['correct']
    assert SubsetConfidence(subset).update(LOGITS, labels) is None
    decisions = ConflictDecisions(groups)
    right = decisions.update(LOGITS, torch.stack([LABELS % 3, (LABELS + 1) % 3], dim=1))
    assert int(right.sum()) == sum(decisions.state()['shape'])


@pytest.mark.parametrize(
    ('score', 'targets'),
    [
        (TopK, LABELS),
        (lambda: ClassAccuracy('abcdefghijkl'), LABELS),
        (lambda: SubsetAccuracy(range(12)), LABELS),
        (lambda: SubsetConfidence([1, 4]), LABELS),
        (lambda: ConflictDecisions([[0, 1], [2], [5, 6]]), torch.stack([LABELS % 3, (LABELS + 1) % 3], dim=1)),
    ],
)
def test_parts_of_the_images_together_are_all(score, targets):
    states = [counted(score(), targets[some], LOGITS[some]) for some in (slice(13), slice(0), slice(13, 40))]
    assert score().merge(states) == counted(score(), targets)


def test_class_accuracy():
    best = LOGITS.argmax(dim=1).tolist()
    pairs = list(zip(LABELS.tolist(), best, strict=True))
    state = counted(ClassAccuracy('abcdefghijkl'), LABELS)
    assert state['names'] == list('abcdefghijkl')
    assert state['images'] == [sum(label == index for label, _ in pairs) for index in range(12)]
    assert state['right'] == [pairs.count((index, index)) for index in range(12)]
    assert 0 < sum(state['right']) < 40


def test_nothing_counted():
    assert TopK().state() == {'images': 0, 'top1': 0, 'top5': 0}


def test_subset_accuracy():
    subset = [1, 4, 5, 9]
    labels = torch.tensor(subset)[LABELS % 4]
    state = counted(SubsetAccuracy(subset), labels)
    right, right_of_all, confidences = 0, 0, []
    for row, label in zip(LOGITS.tolist(), labels.tolist(), strict=True):
        right += max(subset, key=lambda index: row[index]) == label
        right_of_all += max(range(12), key=lambda index: row[index]) == label
        weights = [math.exp(row[index]) for index in subset]
        confidences.append(max(weights) / sum(weights))
    assert (state['images'], state['right'], state['right_of_all']) == (40, right, right_of_all)
    assert right_of_all < right
    assert sum(state['correct']) == right
    assert state['confidence'] == pytest.approx(confidences, rel=1e-5)
    assert counted(SubsetConfidence(subset), labels) == {'images': 40, 'confidence': state['confidence']}


def test_conflict_decisions_take_the_mean_over_classes():
    groups = [[0], [1, 2, 3], [4, 5]]
    cues = torch.stack([LABELS % 3, (LABELS + 1) % 3], dim=1)
    state = counted(ConflictDecisions(groups), cues, LOGITS[:, :6])
    expected = {'images': [0] * 3, 'shape': [0] * 3, 'texture': [0] * 3}
    for row, (shape, texture) in zip(LOGITS[:, :6].tolist(), cues.tolist(), strict=True):
        means = [sum(math.exp(row[index]) for index in group) / len(group) for group in groups]
        decision = means.index(max(means))
        expected['images'][shape] += 1
        expected['shape'][shape] += decision == shape
        expected['texture'][shape] += decision == texture
    assert state == expected
    assert sum(state['shape']) > 0
    assert sum(state['texture']) > 0


def test_the_mean_is_not_the_sum():
    # The sum over three classes at 0.25 would beat one class at 0.3.
    logits = torch.tensor([[0.3, 0.22, 0.24, 0.24]]).log()
    score = ConflictDecisions([[0], [1, 2, 3]])
    score.update(logits, torch.tensor([[0, 1]]))
    assert score.state() == {'images': [1, 0], 'shape': [1, 0], 'texture': [0, 0]}


def test_half_precision_decides_as_float32():
    """Its logits are told apart, while their probabilities, 0.49995 and 0.50005, would both be 0.5."""
    logits, label = torch.tensor([[0.0, 2e-4]], dtype=torch.float16), torch.tensor([1])
    accuracy, confidence, decisions = SubsetAccuracy([0, 1]), SubsetConfidence([0, 1]), ConflictDecisions([[0], [1]])
    assert accuracy.update(logits, label).all()
    assert decisions.update(logits, torch.tensor([[1, 0]])).all()
    confidence.update(logits, label)
    probability = 1 / (1 + math.exp(-logits[0, 1].item()))
    for score in (accuracy, confidence):
        assert score.state()['confidence'] == pytest.approx([probability], rel=1e-6)


def test_share_in_percent():
    entry = share('top1', 30, 40)
    assert entry['top1'] == 75
    low, high = entry['top1_interval']
    assert 0 < low < 75 < high < 100
