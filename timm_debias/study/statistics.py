"""Statistics over seeds: intervals of means, paired tests, and the correction for many of them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DebiasError

_ROUNDING = 2.5e-4
"""Values no further apart than this are the same. Results have four digits, so that equal differences of them may lie
two of the last digit apart; one of the 50,000 images of ImageNet is eight times as much."""


@dataclass(frozen=True)
class Estimate:
    """A mean and how sure it is."""

    mean: float
    half_width: float | None
    """Half of the 95 % interval of Student's t; None for a single value, and where all values are the same."""

    count: int

    @property
    def low(self) -> float:
        """Lower end of the interval, the mean itself without one."""
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """Upper end of the interval, the mean itself without one."""
        return self.mean + (self.half_width or 0.0)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero; never without one."""
        return self.half_width is not None and (self.low > 0 or self.high < 0)


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of independent values with its 95 % interval of Student's t.

    Student, "The Probable Error of a Mean" (Biometrika 1908). Values that are all the same have none: accuracies are
    counts of images, so a few seeds often agree to the last one, and an interval of no width would say that the mean
    is known for certain.

    Raises:
        DebiasError: no values.
    """
    if not values:
        raise DebiasError('no values to take the mean of')
    count, mean = len(values), statistics.fmean(values)
    if count < 2 or not _spread(values):
        return Estimate(mean, None, count)
    error = statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean, t_quantile(0.975, count - 1) * error, count)


def paired_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the paired t-test: that differences of pairs have the mean 0.

    None for less than two pairs, and for differences that are all the same: they have no spread to test against.
    """
    if len(differences) < 2 or not _spread(differences):
        return None
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return t_two_sided(statistics.fmean(differences) / error, len(differences) - 1)


def _spread(values: Sequence[float]) -> bool:
    return max(values) - min(values) > _ROUNDING


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the order given.

    An adjusted value below 0.05 is one that would arise by chance anywhere among them with at most that probability;
    Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (Scandinavian Journal of Statistics 1979).
    """
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def t_two_sided(t: float, degrees: int) -> float:
    """Return the probability that Student's t lies further from 0 than `t`.

    The finite series for whole degrees of freedom, Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.3 and
    26.7.4. Probabilities below 1e-14 are lost in rounding.

    Args:
        t: Any number.
        degrees: Degrees of freedom, at least 1.

    Raises:
        DebiasError: no degree of freedom.
    """
    if degrees < 1:
        raise DebiasError(f"Student's t with {degrees} degrees of freedom; expected at least 1")
    angle = math.atan(abs(t) / math.sqrt(degrees))
    cosine = math.cos(angle)
    odd = degrees % 2
    term = total = (cosine if odd else 1.0) if degrees > 1 else 0.0
    for number in range(2 + odd, degrees - 1, 2):
        term *= cosine**2 * (number - 1) / number
        total += term
    inside = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + inside) if odd else inside))


def t_quantile(probability: float, degrees: int) -> float:
    """Return the value that Student's t stays below with a probability, by bisection.

    Args:
        probability: In [0.5, 1).
        degrees: Degrees of freedom, at least 1.

    Raises:
        DebiasError: a probability outside of these.
    """
    if not 0.5 <= probability < 1:
        raise DebiasError(f"quantile of Student's t at {probability}; expected a probability in [0.5, 1)")
    outside = 2 * (1 - probability)
    low, high = 0.0, 1.0
    while t_two_sided(high, degrees) > outside:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_two_sided(middle, degrees) > outside else (low, middle)
    return (low + high) / 2
