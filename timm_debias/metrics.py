"""Metrics as pure functions.

Vectors of numbers may be sequences, NumPy arrays or tensors of any device; they are computed in float64.
"""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from .errors import DebiasError, did_you_mean

Values = Sequence[float] | np.ndarray | torch.Tensor

ALEXNET_ERRORS: dict[str, float] = {
    'gaussian_noise': 0.886428,
    'shot_noise': 0.894468,
    'impulse_noise': 0.922640,
    'defocus_blur': 0.819880,
    'glass_blur': 0.826268,
    'motion_blur': 0.785948,
    'zoom_blur': 0.798360,
    'snow': 0.866816,
    'frost': 0.826572,
    'fog': 0.819324,
    'brightness': 0.564592,
    'contrast': 0.853204,
    'elastic_transform': 0.646056,
    'pixelate': 0.717840,
    'jpeg_compression': 0.606500,
}
"""AlexNet's error on each of the 15 main corruptions of ImageNet-C, a fraction, mean over the five severities.

The source is `ALEXNET_ERR` in imagenet.py of google-research/augmix; issue 10 of hendrycks/robustness has them by
severity.
"""

ALEXNET_CLEAN_ERROR = 0.4348
"""AlexNet's error on the clean ImageNet validation set, a fraction: torchvision reports an accuracy of 56.522 %."""

EXTRA_CORRUPTIONS = ('speckle_noise', 'gaussian_blur', 'spatter', 'saturate')
"""The corruptions of ImageNet-C outside mCE: AlexNet's errors on them were not published."""

SEVERITIES = range(1, 6)
"""Those of ImageNet-C."""


def corruption_error(errors: Values, corruption: str) -> float:
    """Return CE, percent: the mean error on a corruption over AlexNet's.

    Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"
    (ICLR 2019), section 4.

    Args:
        errors: Top-1 errors at severity 1 to 5, fractions.
        corruption: One of the 15 main corruptions.

    Raises:
        DebiasError: a corruption that has no CE, not five errors, or an error outside [0, 1].
    """
    if corruption in EXTRA_CORRUPTIONS:
        raise DebiasError(f"'{corruption}' has no CE, AlexNet's error on it is not published; see mean_error")
    return 100 * _mean_over_severities(errors, corruption) / ALEXNET_ERRORS[corruption]


def mean_corruption_error(errors: Mapping[str, Values]) -> float:
    """Return mCE, percent: the mean of CE over the 15 main corruptions of ImageNet-C.

    Args:
        errors: For each corruption, top-1 errors at severity 1 to 5, fractions. `EXTRA_CORRUPTIONS` are left out.

    Raises:
        DebiasError: a main corruption is missing, a name is unknown, or errors are wrong as in `corruption_error`.
    """
    _check_main(errors)
    return statistics.fmean(corruption_error(errors[corruption], corruption) for corruption in ALEXNET_ERRORS)


def relative_corruption_error(errors: Mapping[str, Values], clean_error: float) -> float:
    """Return relative mCE, percent: how much more a model loses by corruption than AlexNet does.

    The mean over the 15 main corruptions of (E_c − E_clean) / (A_c − A_clean), with A for AlexNet; Hendrycks &
    Dietterich (ICLR 2019), section 4.

    Args:
        errors: As in `mean_corruption_error`.
        clean_error: Top-1 error on the clean validation set, a fraction.

    Raises:
        DebiasError: as in `mean_corruption_error`, or a clean error outside [0, 1].
    """
    _check_main(errors)
    _check_fractions(np.asarray([clean_error]), 'clean_error')
    return 100 * statistics.fmean(
        (_mean_over_severities(errors[corruption], corruption) - clean_error) / (alexnet_error - ALEXNET_CLEAN_ERROR)
        for corruption, alexnet_error in ALEXNET_ERRORS.items()
    )


def mean_error(errors: Mapping[str, Values]) -> float:
    """Return the mean error over all corruptions and severities given, percent, not normalised by AlexNet's.

    Over the 15 main corruptions it is 100 − the mean accuracy that many papers give; the reference implementation of
    Li et al. (ICLR 2021) takes it over all 19.

    Args:
        errors: For each corruption, main or extra, top-1 errors at severity 1 to 5, fractions.

    Raises:
        DebiasError: no corruption, an unknown name, or errors that are wrong as in `corruption_error`.
    """
    if not errors:
        raise DebiasError('no errors on corruptions to take the mean of')
    return 100 * statistics.fmean(_mean_over_severities(values, corruption) for corruption, values in errors.items())


def _mean_over_severities(errors: Values, corruption: str) -> float:
    _check_corruption(corruption)
    vector = _vector(errors, corruption)
    if len(vector) != len(SEVERITIES):
        raise DebiasError(f"'{corruption}' has {len(vector)} errors; expected one for each severity from 1 to 5")
    _check_fractions(vector, corruption)
    return float(vector.mean())


def _check_main(errors: Mapping[str, Values]) -> None:
    for corruption in errors:
        _check_corruption(corruption)
    missing = [corruption for corruption in ALEXNET_ERRORS if corruption not in errors]
    if missing:
        raise DebiasError(f'mCE is a mean over 15 corruptions, and there are no errors for {", ".join(missing)}')


def _check_corruption(corruption: str) -> None:
    known = (*ALEXNET_ERRORS, *EXTRA_CORRUPTIONS)
    if corruption not in known:
        raise DebiasError(f"'{corruption}' is no corruption of ImageNet-C. {did_you_mean(corruption, known)}")


def shape_bias(n_shape: int, n_texture: int) -> float | None:
    """Return the shape bias, a fraction: shape decisions among the decisions for shape or texture.

    Geirhos et al., "ImageNet-trained CNNs are biased towards texture" (ICLR 2019).

    Args:
        n_shape: Conflict images classified as the class of their shape.
        n_texture: Conflict images classified as the class of their texture.

    Returns:
        n_shape / (n_shape + n_texture); None where both are 0.
    """
    decided = n_shape + n_texture
    return n_shape / decided if decided else None


def balanced_accuracy(right: Values, total: Values) -> float:
    """Return the balanced accuracy, a fraction: the mean over classes of the share of their images that are right.

    Where classes differ in size, the plain accuracy is that of the large ones; Brodersen et al., "The Balanced Accuracy
    and Its Posterior Distribution" (ICPR 2010).

    Args:
        right: Images of each class that are classified right [C].
        total: Images of each class [C], at least 1.

    Raises:
        DebiasError: vectors that do not match, a class without images, or more right images than there are.
    """
    right, total = _vector(right, 'right'), _vector(total, 'total')
    if len(right) != len(total) or (total < 1).any() or (right < 0).any() or (right > total).any():
        raise DebiasError(
            f'{right.tolist()} right images of {total.tolist()}; expected for each class at least 1 image, and no more '
            'right ones than images'
        )
    return float((right / total).mean())


def rms_calibration_error(confidence: Values, correct: Values, bin_size: int = 100, original: bool = False) -> float:
    """Return the RMS calibration error, a fraction: sqrt(Σ n_b/N · (confidence_b − accuracy_b)²) over bins b.

    Images are sorted by confidence and cut into bins of `bin_size`; the last bin takes the remainder too. Hendrycks et
    al., "Natural Adversarial Examples" (CVPR 2021). Images of equal confidence count with their mean correctness, so
    that the order of the images does not matter.

    Args:
        confidence: Probability of the predicted class [N], in [0, 1].
        correct: Whether the prediction is right [N], 0 or 1.
        bin_size: Images in a bin.
        original: Leave the bin of the most confident images out of the sum, as calibration_tools.py of
            hendrycks/natural-adv-examples does by an off-by-one; only for comparison with figures that it gave.

    Raises:
        DebiasError: no images, vectors that do not match, values out of range, or a single bin that `original` leaves
            out.
    """
    confidence, correct = _by_confidence(confidence, correct)
    _check_fractions(confidence, 'confidence')
    if bin_size < 1:
        raise DebiasError(f'bin_size is {bin_size}; expected at least 1 image in a bin')
    starts = bin_size * np.arange(max(len(confidence) // bin_size, 1))
    sizes = np.diff(starts, append=len(confidence))
    gaps = np.add.reduceat(confidence - correct, starts) / sizes
    if original:
        if len(starts) < 2:
            raise DebiasError(f'{len(confidence)} images fill one bin, which original=True leaves out')
        sizes, gaps = sizes[:-1], gaps[:-1]
    return float(np.sqrt((sizes * gaps**2).sum() / len(confidence)))


def aurra(confidence: Values, correct: Values) -> float:
    """Return the area under the response rate accuracy curve, a fraction.

    The mean, over k = 1 … N, of the accuracy on the k most confident images; Hendrycks et al., "Natural Adversarial
    Examples" (CVPR 2021). Images of equal confidence count with their mean correctness.

    Args:
        confidence: Confidence in the prediction [N]; only its order matters.
        correct: Whether the prediction is right [N], 0 or 1.

    Raises:
        DebiasError: no images, vectors that do not match, or correctness that is neither 0 nor 1.
    """
    _, correct = _by_confidence(confidence, correct)
    return float((correct[::-1].cumsum() / np.arange(1, len(correct) + 1)).mean())


def _by_confidence(confidence: Values, correct: Values) -> tuple[np.ndarray, np.ndarray]:
    """Return both vectors in the order of rising confidence, correctness averaged over equal confidences."""
    confidence, correct = _vector(confidence, 'confidence'), _vector(correct, 'correct')
    if len(confidence) != len(correct):
        raise DebiasError(f'{len(confidence)} values of confidence and {len(correct)} of correct; expected as many')
    if not np.isin(correct, (0, 1)).all():
        raise DebiasError('correct has values other than 0 and 1')
    levels, level, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    accuracies = np.bincount(level, weights=correct) / counts
    return np.repeat(levels, counts), np.repeat(accuracies, counts)


def auroc(in_scores: Values, out_scores: Values) -> float:
    """Return the area under the ROC curve of detecting out-of-distribution images, a fraction.

    It is the probability that an out-of-distribution image scores above an in-distribution one, ties counting half.
    For ImageNet-O, the score is the negative maximum softmax probability over its 200 classes, and the
    in-distribution images are those of the ImageNet validation set in these classes; eval_many_models.py of
    hendrycks/natural-adv-examples.

    Args:
        in_scores: Anomaly scores of the in-distribution images [N], the negatives; higher is more anomalous.
        out_scores: Anomaly scores of the out-of-distribution images [M], the positives.

    Raises:
        DebiasError: no scores, or scores that are not finite.
    """
    negatives, positives = np.sort(_vector(in_scores, 'in_scores')), _vector(out_scores, 'out_scores')
    below = np.searchsorted(negatives, positives, side='left') + np.searchsorted(negatives, positives, side='right')
    return float(below.mean() / (2 * len(negatives)))


def aupr(in_scores: Values, out_scores: Values) -> float:
    """Return the area under the precision-recall curve of detecting out-of-distribution images, a fraction.

    It is the average precision, Σ (R_t − R_t−1) · P_t over falling thresholds t, without interpolation: the mean, over
    the out-of-distribution images, of the precision at the threshold that just detects the image. The area that chance
    reaches is M / (N + M), so only figures on the same images compare.

    Args: as in `auroc`.

    Raises:
        DebiasError: as in `auroc`.
    """
    negatives, positives = np.sort(_vector(in_scores, 'in_scores')), np.sort(_vector(out_scores, 'out_scores'))
    detected = len(positives) - np.searchsorted(positives, positives, side='left')
    false_alarms = len(negatives) - np.searchsorted(negatives, positives, side='left')
    return float((detected / (detected + false_alarms)).mean())


def fpr_at_95_tpr(in_scores: Values, out_scores: Values) -> float:
    """Return the share of in-distribution images flagged where 95 % of the out-of-distribution ones are, a fraction.

    The threshold is the highest that detects at least 95 %. The original, calibration_tools.py of
    hendrycks/natural-adv-examples, takes the lowest of those that come nearest to 95 %; it also counts the
    in-distribution images between that out-of-distribution image and the next, and so gives slightly higher figures.

    Args: as in `auroc`.

    Raises:
        DebiasError: as in `auroc`.
    """
    negatives, positives = _vector(in_scores, 'in_scores'), np.sort(_vector(out_scores, 'out_scores'))
    missed = len(positives) * 5 // 100
    return float((negatives >= positives[missed]).mean())


def wilson_interval(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval (low, high) of an accuracy, fractions.

    Unlike p ± z·sqrt(p(1 − p)/n), it stays inside [0, 1] and holds near 0 and 1; Wilson, "Probable inference, the law
    of succession, and statistical inference" (JASA 1927).

    Args:
        right: Images classified right.
        total: Images measured.
        confidence: Probability in (0, 1) with which such intervals cover the true accuracy.

    Raises:
        DebiasError: no images, more right ones than images, or a confidence outside (0, 1).
    """
    if total < 1 or not 0 <= right <= total:
        raise DebiasError(f'{right} right of {total} images; expected at least 1 image and 0 to {total} right ones')
    if not 0 < confidence < 1:
        raise DebiasError(f'confidence is {confidence}; expected a probability between 0 and 1, such as 0.95')
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / total
    centre = share + z**2 / (2 * total)
    half_width = z * (share * (1 - share) / total + (z / (2 * total)) ** 2) ** 0.5
    scale = 1 + z**2 / total
    low, high = (centre - half_width) / scale, (centre + half_width) / scale
    return (low if right else 0.0), (high if right < total else 1.0)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test: whether two models measured on the same images differ in accuracy.

    Under the null hypothesis, each image that only one model gets right is the first's with probability 1/2. The
    p-value is two-sided: the probability of a split at least as uneven as the one seen. McNemar, "Note on the sampling
    error of the difference between correlated proportions" (Psychometrika 1947).

    Args:
        only_first: Images that only the first model gets right.
        only_second: Images that only the second model gets right.

    Raises:
        DebiasError: a negative number of images.
    """
    if only_first < 0 or only_second < 0:
        raise DebiasError(f'{only_first} and {only_second} images that one model gets right; expected 0 or more')
    total, fewer = only_first + only_second, min(only_first, only_second)
    ways = tail = 1  # Whole numbers: the binomials of thousands of images overflow floats.
    for count in range(fewer):
        ways = ways * (total - count) // (count + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**total)


def _vector(values: Values, name: str) -> np.ndarray:
    """Return finite float64 values [N], N ≥ 1."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()  # NumPy has no bfloat16.
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not len(vector):
        raise DebiasError(f'{name} has the shape {list(vector.shape)}; expected a vector with at least one value')
    if not np.isfinite(vector).all():
        raise DebiasError(f'{name} has values that are not finite (NaN or infinite)')
    return vector


def _check_fractions(values: np.ndarray, name: str) -> None:
    outside = values[~((values >= 0) & (values <= 1))]
    if len(outside):
        raise DebiasError(f'{name} has the value {outside[0]:g}; expected fractions in [0, 1], not percent')
