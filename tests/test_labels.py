"""Labels and measures beyond top-1, against counts by hand."""

import json

import pytest
import torch

from timm_debias import DebiasError
from timm_debias.validation.labels import AveragedMetrics, RealLabels, read_valid_labels


def one_hot(predictions, classes=5):
    return torch.nn.functional.one_hot(torch.tensor(predictions), classes).float()


def averaged(average, predictions, targets):
    metrics = AveragedMetrics(average)
    half = len(targets) // 2
    for part in (slice(None, half), slice(half, None)):
        metrics(one_hot(predictions[part]), torch.tensor(targets[part]))
    return list(metrics.metrics().values())


# Class 0: 2 of 3 predictions and 2 of 2 labels are right; 1: 1 of 2 and 1 of 3; 2: 0 of 1 predictions, no label;
# 3: no prediction, 1 label; 4: neither, so it does not count.
PREDICTIONS, TARGETS = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 3, 1]
PRECISION = [2 / 3, 1 / 2, 0, 0]
RECALL = [1, 1 / 3, 0, 0]
F1 = [4 / 5, 2 / 5, 0, 0]


def test_averages():
    assert averaged('micro', PREDICTIONS, TARGETS) == pytest.approx([50, 50, 50])
    macro = [25 * sum(values) for values in (PRECISION, RECALL, F1)]
    assert averaged('macro', PREDICTIONS, TARGETS) == pytest.approx(macro)
    weighted = [100 * (2 * values[0] + 3 * values[1]) / 6 for values in (PRECISION, RECALL, F1)]
    assert averaged('weighted', PREDICTIONS, TARGETS) == pytest.approx(weighted)


def test_names_are_timms():
    metrics = AveragedMetrics('macro')
    metrics(one_hot([1]), torch.tensor([1]))
    assert metrics.metrics() == {'macro_precision': 100, 'macro_recall': 100, 'macro_f1_score': 100}


def test_valid_labels(tmp_path):
    path = tmp_path / 'labels.txt'
    path.write_text('3\n0\n\n')
    assert read_valid_labels(str(path), 4).tolist() == [3, 0]
    assert read_valid_labels('', 4) is None
    for text, part in (('3\n4\n', '[4]'), ('cat\n', 'cat'), ('', 'no index'), ('-1', '[-1]')):
        path.write_text(text)
        with pytest.raises(DebiasError, match='--valid-labels') as caught:
            read_valid_labels(str(path), 4)
        assert part in str(caught.value)


def test_real_labels(tmp_path):
    path = tmp_path / 'real.json'
    path.write_text(json.dumps([[0, 1], [], [2], [7]]))
    names = [f'ILSVRC2012_val_0000000{number}.JPEG' for number in (1, 2, 3, 4)]
    real = RealLabels(str(path), names)
    scores = one_hot([1, 0, 0, 3], classes=10) + torch.linspace(0.5, 0, 10)
    real(scores[:3], torch.zeros(3))
    real(scores[3:], torch.zeros(1))
    # The second image has no label; the third's is second best, the fourth's none of the five best.
    assert real.metrics() == pytest.approx({'top1': 100 / 3, 'top5': 200 / 3})


@pytest.mark.parametrize(
    ('text', 'names'),
    [('[[0], [1]]', ['ILSVRC2012_val_00000001.JPEG']), ('{', ['a']), ('[[0]]', ['cat.jpg']), ('3', ['a'])],
    ids=['number of images', 'no JSON', 'other images', 'no list'],
)
def test_real_labels_of_something_else(tmp_path, text, names):
    path = tmp_path / 'real.json'
    path.write_text(text)
    with pytest.raises(DebiasError, match='--real-labels'):
        RealLabels(str(path), names)
