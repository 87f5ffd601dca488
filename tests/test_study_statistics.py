"""Statistics over seeds against published tables, closed forms and simulation."""

import math
import random
import statistics

import pytest

from timm_debias import DebiasError
from timm_debias.study.statistics import estimate, holm, paired_p, t_quantile, t_two_sided

# Two-sided 95 % and 99 % points of Student's t, from the tables of the NIST/SEMATECH e-Handbook, 1.3.6.7.2.
PUBLISHED = {
    1: (12.706, 63.657), 2: (4.303, 9.925), 3: (3.182, 5.841), 4: (2.776, 4.604), 5: (2.571, 4.032),
    6: (2.447, 3.707), 7: (2.365, 3.499), 8: (2.306, 3.355), 9: (2.262, 3.250), 10: (2.228, 3.169),
    20: (2.086, 2.845), 29: (2.045, 2.756), 60: (2.000, 2.660), 100: (1.984, 2.626),
}  # fmt: skip


@pytest.mark.parametrize('degrees', PUBLISHED)
def test_published_quantiles(degrees):
    for probability, expected in zip((0.975, 0.995), PUBLISHED[degrees], strict=True):
        assert t_quantile(probability, degrees) == pytest.approx(expected, abs=5.01e-4)


@pytest.mark.parametrize('degrees', [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize('t', [0.0, 0.3, -1.1, 2.5, 9.0])
def test_two_sided_probability_is_the_integral_of_the_density(t, degrees):
    """Simpson's rule over the density, an independent way to the same number."""
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    steps = 4000
    width = abs(t) / steps
    values = [scale * (1 + (width * step) ** 2 / degrees) ** (-(degrees + 1) / 2) for step in range(steps + 1)]
    inside = width / 3 * (values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2]))
    assert t_two_sided(t, degrees) == pytest.approx(1 - 2 * inside, abs=1e-9)


@pytest.mark.parametrize('t', [1e2, 1e3, 1e4, 1e15])
def test_probability_that_is_lost_in_rounding_is_not_negative(t):
    assert all(0 <= t_two_sided(t, degrees) < 0.01 for degrees in range(1, 40))


def test_many_degrees_are_the_normal_distribution():
    assert t_quantile(0.975, 100_001) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), abs=1e-4)


def test_interval_by_hand():
    """1 … 5: mean 3, standard error sqrt(2.5 / 5), t(4) = 2.776."""
    found = estimate([1, 2, 3, 4, 5])
    assert (found.mean, found.count) == (3, 5)
    assert found.half_width == pytest.approx(2.776445 * math.sqrt(0.5), rel=1e-6)
    assert found.low == pytest.approx(3 - 1.96324, abs=1e-4)
    assert found.excludes_zero
    assert not estimate([-1, 2, 3, -4, 5]).excludes_zero


def test_one_value_has_no_interval():
    found = estimate([2.0])
    assert (found.half_width, found.low, found.high, found.excludes_zero) == (None, 2.0, 2.0, False)
    assert paired_p([2.0]) is None


def test_paired_test_of_student():
    """Student's own data of 1908: ten patients' extra hours of sleep; t = 4.0621, p = 0.00283."""
    hours = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    assert paired_p(hours) == pytest.approx(0.002833, abs=1e-6)
    assert estimate(hours).low == pytest.approx(0.7001142, abs=1e-6)
    assert estimate(hours).high == pytest.approx(2.4598858, abs=1e-6)


def test_interval_and_test_agree():
    rng = random.Random(0)
    for _ in range(200):
        values = [rng.gauss(0.7, 1) for _ in range(rng.randint(2, 6))]
        assert (paired_p(values) < 0.05) == estimate(values).excludes_zero


def test_coverage():
    """Of many intervals of three values, 95 % hold the true mean."""
    rng = random.Random(1)
    quantile = t_quantile(0.975, 2)
    covered = 0
    for _ in range(4000):
        values = [rng.gauss(5, 2) for _ in range(3)]
        covered += abs(statistics.fmean(values) - 5) <= quantile * statistics.stdev(values) / math.sqrt(3)
    assert covered / 4000 == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize('values', [[0.25, 0.25, 0.25], [0.0, 0.0], [0.1 + 0.2, 0.3]])
def test_no_spread(values):
    """Seeds that agree to the last image, or but for rounding, are no proof: neither an interval nor a p-value."""
    assert paired_p(values) is None
    found = estimate(values)
    assert (found.half_width, found.excludes_zero, found.count) == (None, False, len(values))
    assert found.low == found.high == found.mean == pytest.approx(values[0])


def test_holm_by_hand():
    """Holm's procedure for 0.01, 0.04, 0.03, 0.005: 4·0.005, 3·0.01, 2·0.03, and 0.06 again for the largest."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_mistakes():
    with pytest.raises(DebiasError, match='no values'):
        estimate([])
    with pytest.raises(DebiasError, match='0 degrees of freedom'):
        t_two_sided(1, 0)
    with pytest.raises(DebiasError, match=r'0\.2; expected a probability'):
        t_quantile(0.2, 3)


def test_digits_of_the_results_are_no_spread():
    """Ten of 372 images more in both seeds, in results of four digits: 2.6882 and 2.6881 points."""
    rounded = [round(100 * (right + 10) / 372, 4) - round(100 * right / 372, 4) for right in (285, 288)]
    assert rounded[0] != pytest.approx(rounded[1], abs=1e-5)
    assert estimate(rounded).half_width is None
    assert paired_p(rounded) is None
    one_image = 100 / 50_000
    assert estimate([0.0, one_image]).half_width is not None
