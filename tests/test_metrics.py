"""Metrics against published figures and against their definitions, written out the slow way."""

import itertools
import math

import numpy as np
import pytest
import torch

from timm_debias import DebiasError
from timm_debias.metrics import (
    ALEXNET_CLEAN_ERROR,
    ALEXNET_ERRORS,
    EXTRA_CORRUPTIONS,
    aupr,
    auroc,
    aurra,
    balanced_accuracy,
    corruption_error,
    fpr_at_95_tpr,
    mcnemar,
    mean_corruption_error,
    mean_error,
    relative_corruption_error,
    rms_calibration_error,
    shape_bias,
    wilson_interval,
)

# AlexNet's errors at severity 1 to 5, as given by the authors of ImageNet-C in issue 10 of hendrycks/robustness.
ALEXNET = {
    'gaussian_noise': (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    'shot_noise': (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    'impulse_noise': (0.78374, 0.89808, 0.9487, 0.9872, 0.99548),
    'defocus_blur': (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    'glass_blur': (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    'motion_blur': (0.5843, 0.70048, 0.82108, 0.8975, 0.92638),
    'zoom_blur': (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    'snow': (0.71726, 0.88392, 0.86468, 0.9187, 0.94952),
    'frost': (0.6139, 0.79734, 0.8879, 0.89942, 0.9343),
    'fog': (0.67474, 0.7605, 0.84378, 0.8726, 0.945),
    'brightness': (0.4514, 0.48502, 0.54048, 0.62166, 0.7244),
    'contrast': (0.64548, 0.7615, 0.88874, 0.9776, 0.9927),
    'elastic_transform': (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    'pixelate': (0.52218, 0.5462, 0.73728, 0.87092, 0.91262),
    'jpeg_compression': (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}

# Accuracies of torchvision's ResNet-50 (Standard_R50) at severity 1 to 5 on 5,000 images: RobustBench/robustbench,
# model_info/imagenet/corruptions/unaggregated_results.csv at commit 78fcc9e. Standard_R50.json beside it gives an mCE
# of 76.38, normalised by AlexNet on the same images, and a mean accuracy of 39.48.
RESNET50_ACCURACIES = {
    'gaussian_noise': (0.602, 0.4878, 0.3124, 0.1422, 0.0288),
    'shot_noise': (0.5828, 0.4486, 0.2856, 0.1026, 0.0352),
    'impulse_noise': (0.4854, 0.3862, 0.2904, 0.113, 0.0244),
    'defocus_blur': (0.5914, 0.5154, 0.3808, 0.2752, 0.1824),
    'glass_blur': (0.5362, 0.3974, 0.1708, 0.1306, 0.1034),
    'motion_blur': (0.636, 0.5342, 0.3754, 0.2158, 0.1452),
    'zoom_blur': (0.5258, 0.4302, 0.356, 0.2844, 0.2194),
    'snow': (0.5468, 0.312, 0.3494, 0.2344, 0.165),
    'frost': (0.6106, 0.4366, 0.3064, 0.2864, 0.2258),
    'fog': (0.6092, 0.56, 0.4674, 0.4024, 0.236),
    'brightness': (0.736, 0.7222, 0.6958, 0.6496, 0.5886),
    'contrast': (0.6428, 0.5824, 0.466, 0.2098, 0.0542),
    'elastic_transform': (0.6684, 0.4514, 0.5456, 0.4122, 0.1702),
    'pixelate': (0.638, 0.6434, 0.4598, 0.293, 0.2088),
    'jpeg_compression': (0.6644, 0.6234, 0.6004, 0.4786, 0.3254),
}
RESNET50 = {name: [1 - value for value in values] for name, values in RESNET50_ACCURACIES.items()}


def test_alexnet_is_100():
    for corruption, errors in ALEXNET.items():
        assert corruption_error(errors, corruption) == pytest.approx(100, abs=1e-9)
    assert mean_corruption_error(ALEXNET) == pytest.approx(100, abs=1e-9)
    assert relative_corruption_error(ALEXNET, ALEXNET_CLEAN_ERROR) == pytest.approx(100, abs=1e-9)


def test_published_mce_of_resnet50():
    assert mean_corruption_error(RESNET50) == pytest.approx(76.4, abs=0.1)
    assert 100 - mean_error(RESNET50) == pytest.approx(39.48, abs=0.005)


def test_relative_corruption_error_sums_over_severities():
    """The paper subtracts the clean error at each severity, then divides the sums."""
    ratios = []
    for corruption, errors in RESNET50.items():
        ours = sum(error - 0.2328 for error in errors)
        ratios.append(ours / sum(error - ALEXNET_CLEAN_ERROR for error in ALEXNET[corruption]))
    assert relative_corruption_error(RESNET50, 0.2328) == pytest.approx(100 * sum(ratios) / 15)


def test_extra_corruptions_are_left_out_of_mce():
    everything = RESNET50 | {corruption: [1.0] * 5 for corruption in EXTRA_CORRUPTIONS}
    assert mean_corruption_error(everything) == mean_corruption_error(RESNET50)
    assert relative_corruption_error(everything, 0.2) == relative_corruption_error(RESNET50, 0.2)
    assert mean_error(everything) == pytest.approx((15 * mean_error(RESNET50) + 4 * 100) / 19)
    with pytest.raises(DebiasError, match="'spatter' has no CE"):
        corruption_error([0.5] * 5, 'spatter')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'gausian_noise': [0.5] * 5}, "'gausian_noise' is no corruption.*Did you mean 'gaussian_noise'"),
        ({'fog': [0.5] * 4}, "'fog' has 4 errors; expected one for each severity"),
        ({'fog': [0.5] * 6}, "'fog' has 6 errors; expected one for each severity"),
        ({'fog': [50.0] * 5}, r'fog has the value 50; expected fractions in \[0, 1\], not percent'),
        ({'fog': [-0.1] * 5}, 'fog has the value -0.1'),
        ({'fog': [math.nan] * 5}, 'fog has values that are not finite'),
        ({'fog': 0.5}, 'fog has the shape'),
    ],
)
@pytest.mark.parametrize('metric', [mean_corruption_error, mean_error, lambda e: relative_corruption_error(e, 0.2)])
def test_wrong_errors(metric, change, message):
    with pytest.raises(DebiasError, match=message):
        metric(RESNET50 | change)


def test_missing_corruptions():
    some = {name: values for name, values in RESNET50.items() if name not in ('snow', 'fog')}
    for metric in (mean_corruption_error, lambda errors: relative_corruption_error(errors, 0.2)):
        with pytest.raises(DebiasError, match='no errors for snow, fog'):
            metric(some)
    with pytest.raises(DebiasError, match='no errors'):
        mean_error({})
    with pytest.raises(DebiasError, match='clean_error has the value 24'):
        relative_corruption_error(RESNET50, 24)


@pytest.mark.parametrize(
    ('n_shape', 'n_texture', 'percent'),
    [(9236, 398, 95.87), (162, 572, 22.07)],  # humans, ResNet-50: per-trial data of bethgelab/model-vs-human
)
def test_shape_bias(n_shape, n_texture, percent):
    assert 100 * shape_bias(n_shape, n_texture) == pytest.approx(percent, abs=0.005)


def test_shape_bias_without_decisions():
    assert shape_bias(0, 0) is None


def predictions(count, seed=0):
    """Distinct confidences, in no order, and correctness that is more frequent where they are high."""
    generator = np.random.default_rng(seed)
    confidence = generator.permutation((np.arange(count) + 0.5) / count)
    return confidence, generator.random(count) < confidence**2


@pytest.mark.parametrize('count', [7, 99, 100, 199, 200, 250, 1000])
@pytest.mark.parametrize('original', [False, True])
def test_rms_calibration_error_by_hand(count, original):
    confidence, correct = predictions(count)
    pairs = sorted(zip(confidence, correct, strict=True))
    bins = [[]]
    for pair in pairs:
        if len(bins[-1]) == 100 and count - (len(bins) * 100) >= 100:
            bins.append([])
        bins[-1].append(pair)
    if original:
        bins.pop()
    total = 0.0
    for members in bins:
        gap = sum(c for c, _ in members) / len(members) - sum(int(right) for _, right in members) / len(members)
        total += len(members) / count * gap**2
    if not bins:
        with pytest.raises(DebiasError, match='images fill one bin'):
            rms_calibration_error(confidence, correct, original=True)
    else:
        assert rms_calibration_error(confidence, correct, original=original) == pytest.approx(math.sqrt(total))


def test_rms_calibration_error_of_known_models():
    sure = np.full(400, 1.0)
    assert rms_calibration_error(sure, np.zeros(400)) == 1
    assert rms_calibration_error(sure, np.ones(400)) == 0
    assert rms_calibration_error(sure, np.arange(400) % 2) == pytest.approx(0.5)
    confidence = np.repeat([0.25, 0.75], 200)
    correct = np.concatenate([np.arange(200) % 4 == 0, np.arange(200) % 4 > 0])
    assert rms_calibration_error(confidence, correct) == pytest.approx(0)
    # All of the error is where the model is most sure: the original does not see it.
    assert rms_calibration_error([0.0] * 100 + [1.0] * 100, [0] * 200) == pytest.approx(math.sqrt(0.5))
    assert rms_calibration_error([0.0] * 100 + [1.0] * 100, [0] * 200, original=True) == 0


def test_aurra_by_hand():
    assert aurra([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1]) == pytest.approx((1 + 1 / 2 + 2 / 3 + 3 / 4) / 4)
    confidence, correct = predictions(60)
    curve = [np.mean([r for c, r in zip(confidence, correct, strict=True) if c >= level]) for level in confidence]
    assert aurra(confidence, correct) == pytest.approx(np.mean(curve))


def test_aurra_of_ties_is_the_mean_over_their_orders():
    confidence, correct = [0.9, 0.5, 0.5, 0.5, 0.2], [1, 0, 1, 0, 1]
    orders = [[1, *middle, 1] for middle in itertools.permutations(correct[1:4])]
    expected = np.mean([np.mean(np.cumsum(order) / np.arange(1, 6)) for order in orders])
    assert aurra(confidence, correct) == pytest.approx(expected)


@pytest.mark.parametrize('metric', [rms_calibration_error, aurra])
def test_calibration_ignores_the_order_of_images(metric):
    confidence, correct = predictions(500)
    confidence = np.round(confidence, 1)  # Many ties.
    order = np.random.default_rng(1).permutation(500)
    assert metric(confidence[order], correct[order]) == pytest.approx(metric(confidence, correct), abs=1e-12)


@pytest.mark.parametrize('metric', [rms_calibration_error, aurra])
def test_wrong_calibration_input(metric):
    with pytest.raises(DebiasError, match='2 values of confidence and 3 of correct'):
        metric([0.1, 0.2], [1, 0, 1])
    with pytest.raises(DebiasError, match='other than 0 and 1'):
        metric([0.1, 0.2], [1, 7])
    with pytest.raises(DebiasError, match='at least one value'):
        metric([], [])
    with pytest.raises(DebiasError, match='not finite'):
        metric([0.1, math.nan], [1, 0])


def test_calibration_needs_probabilities_and_bins():
    with pytest.raises(DebiasError, match='confidence has the value 3'):
        rms_calibration_error([0.5, 3.0], [1, 0])
    with pytest.raises(DebiasError, match='bin_size is 0'):
        rms_calibration_error([0.5], [1], bin_size=0)


def naive_auroc(in_scores, out_scores):
    wins = [1.0 if out > inside else 0.5 * (out == inside) for out in out_scores for inside in in_scores]
    return sum(wins) / len(wins)


def rates(in_scores, out_scores, threshold):
    """(recall, precision, false positive rate) of flagging every image with a score of at least the threshold."""
    hits, alarms = sum(s >= threshold for s in out_scores), sum(s >= threshold for s in in_scores)
    return hits / len(out_scores), hits / (hits + alarms), alarms / len(in_scores)


def naive_aupr(in_scores, out_scores):
    area = last_recall = 0.0
    for threshold in sorted({*in_scores, *out_scores}, reverse=True):
        recall, precision, _ = rates(in_scores, out_scores, threshold)
        area += (recall - last_recall) * precision
        last_recall = recall
    return area


def naive_fpr(in_scores, out_scores):
    thresholds = {*in_scores, *out_scores}
    enough = [
        t
        for t in thresholds
        if 100 * round(rates(in_scores, out_scores, t)[0] * len(out_scores)) >= 95 * len(out_scores)
    ]
    return min(rates(in_scores, out_scores, t)[2] for t in enough)


@pytest.mark.parametrize('levels', [3, 20, 10**6])  # All ties, some, none.
@pytest.mark.parametrize(('n_in', 'n_out'), [(1, 1), (37, 19), (40, 20), (20, 60), (50, 101)])
def test_detection_against_definitions(levels, n_in, n_out):
    generator = np.random.default_rng(levels + n_in)
    in_scores = -generator.integers(0, levels, n_in) / levels
    out_scores = -generator.integers(0, levels, n_out) / levels * 0.75
    assert auroc(in_scores, out_scores) == pytest.approx(naive_auroc(in_scores, out_scores))
    assert aupr(in_scores, out_scores) == pytest.approx(naive_aupr(in_scores, out_scores))
    assert fpr_at_95_tpr(in_scores, out_scores) == pytest.approx(naive_fpr(in_scores, out_scores))


def test_detection_of_known_detectors():
    low, high = [-0.9, -0.8, -0.7], [-0.3, -0.2]
    assert (auroc(low, high), aupr(low, high), fpr_at_95_tpr(low, high)) == (1, 1, 0)
    assert (auroc(high, low), fpr_at_95_tpr(high, low)) == (0, 1)
    same = [-0.5] * 6
    assert (auroc(same, same[:2]), aupr(same, same[:2]), fpr_at_95_tpr(same, same[:2])) == (0.5, 0.25, 1)
    with pytest.raises(DebiasError, match='out_scores has the shape'):
        auroc(low, [])


def test_precision_recall_by_hand():
    """scikit-learn's documented example of average precision: 0.83 for scores .1 .4 .35 .8 of classes 0 0 1 1."""
    assert aupr([0.1, 0.4], [0.35, 0.8]) == pytest.approx((1 + 2 / 3) / 2)


def test_tensors_arrays_and_sequences_agree():
    confidence, correct = predictions(300)
    confidence = torch.tensor(confidence, dtype=torch.bfloat16)
    for metric in (rms_calibration_error, aurra):
        expected = metric(confidence.tolist(), correct.tolist())
        assert metric(confidence, torch.tensor(correct)) == expected
        assert metric(confidence.double().numpy(), correct) == expected
    assert auroc(confidence, confidence.requires_grad_()) == pytest.approx(0.5)
    errors = np.array([0.1, 0.2, 0.3, 0.4, 0.55], dtype=np.float16)
    assert mean_error({'fog': errors}) == mean_error({'fog': errors.tolist()})


@pytest.mark.parametrize(
    ('right', 'total', 'low', 'high'),  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_published(right, total, low, high):
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize('confidence', [0.9, 0.95, 0.99])
def test_wilson_interval_solves_its_equation(confidence):
    """The bounds are the accuracies p from which the share seen is z standard errors of p away."""
    z = {0.9: 1.644854, 0.95: 1.959964, 0.99: 2.575829}[confidence]
    for right, total in [(1, 3), (40, 1200), (1199, 1200), (38000, 50000)]:
        for bound in wilson_interval(right, total, confidence):
            assert abs(right / total - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / total), rel=1e-6)


def test_wilson_interval_ends():
    assert wilson_interval(0, 5)[0] == 0
    assert {wilson_interval(count, count)[1] for count in range(1, 200)} == {1}  # Rounding leaves no gap.
    for right, total, confidence in [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 95), (1, 2, 0)]:
        with pytest.raises(DebiasError, match='expected'):
            wilson_interval(right, total, confidence)


@pytest.mark.parametrize(('only_first', 'only_second'), [(0, 0), (1, 0), (5, 1), (1, 5), (3, 3), (4, 7), (0, 12)])
def test_mcnemar_counts_all_outcomes(only_first, only_second):
    total, uneven = only_first + only_second, abs(only_first - only_second)
    outcomes = [abs(2 * sum(flips) - total) >= uneven for flips in itertools.product((0, 1), repeat=total)]
    assert mcnemar(only_first, only_second) == pytest.approx(sum(outcomes) / len(outcomes))


def test_mcnemar_of_thousands():
    """The chi-squared test with continuity correction is its limit: p = erfc(sqrt(χ² / 2))."""
    first, second = 4100, 3900
    limit = math.erfc(math.sqrt((first - second - 1) ** 2 / (first + second) / 2))
    assert mcnemar(first, second) == pytest.approx(limit, rel=1e-2)
    assert mcnemar(20000, 0) == 0
    with pytest.raises(DebiasError, match='0 or more'):
        mcnemar(-1, 3)


def test_tables():
    assert len(ALEXNET_ERRORS) == 15
    assert not set(EXTRA_CORRUPTIONS) & set(ALEXNET_ERRORS)


class TestBalancedAccuracy:
    def test_by_hand(self):
        """Recalls 1/2, 3/4 and 1: their mean is 3/4, while 10 of 13 images are right."""
        assert balanced_accuracy([1, 3, 6], [2, 4, 6]) == pytest.approx((0.5 + 0.75 + 1) / 3)

    def test_against_a_confusion_matrix(self):
        rng = np.random.default_rng(0)
        labels, predictions = rng.integers(0, 8, 200) // 2 * rng.integers(0, 2, 200), rng.integers(0, 4, 200)
        confusion = np.zeros((4, 4))
        np.add.at(confusion, (labels, predictions), 1)
        recalls = np.diag(confusion) / confusion.sum(axis=1)
        right = [int(((labels == k) & (predictions == k)).sum()) for k in range(4)]
        total = torch.tensor([int((labels == k).sum()) for k in range(4)])
        assert balanced_accuracy(right, total) == pytest.approx(recalls.mean())

    @pytest.mark.parametrize(('right', 'total'), [([1], [1, 2]), ([0, 0], [1, 0]), ([3, 0], [2, 1]), ([-1], [1])])
    def test_mistakes(self, right, total):
        with pytest.raises(DebiasError, match='expected for each class at least 1 image'):
            balanced_accuracy(right, total)
