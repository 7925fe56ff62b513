"""Confidence intervals of accuracies, and paired comparisons of two networks on the same images.

Intervals have 95 % confidence. Results on the same images are paired: the difference of two accuracies depends only on the images
that one network classifies correctly and the other does not, so that its interval is narrower than those of the accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy  # its modules are loaded on first use, which most commands have none of
from numpy.typing import ArrayLike, NDArray

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
SIGNIFICANCE = 0.05

Interval = tuple[float, float]
Floats = NDArray[np.float64]


def wilson_interval(correct: int, images: int) -> Interval:
    """Return the 95 % Wilson score interval of an accuracy (E. B. Wilson, JASA 22, 1927).

    With p = correct / images, n = images and z = 1.96 it is (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).

    Args:
        correct: Number of images that are classified correctly.
        images: Number of images, at least 1.

    Returns:
        Lower and upper end, fractions between 0 and 1.
    """
    low, high = wilson_intervals(correct, images)
    return float(low), float(high)


def wilson_intervals(correct: ArrayLike, images: ArrayLike) -> tuple[Floats, Floats]:
    """Return the 95 % Wilson score interval of several accuracies; see `wilson_interval`.

    Args:
        correct: Numbers of images that are classified correctly, `[N]`.
        images: Numbers of images, `[N]`.

    Returns:
        Lower and upper ends, `[N]`.
    """
    n = np.asarray(images, dtype=float)
    p, z2 = np.asarray(correct, dtype=float) / n, Z_95**2
    centre = p + z2 / (2 * n)
    half = Z_95 * np.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    scale = 1 + z2 / n
    return np.maximum(0.0, (centre - half) / scale), np.minimum(1.0, (centre + half) / scale)


def jackknife_deviation(without: Sequence[float]) -> float:
    """Return the standard deviation of an estimate by the delete-a-group jackknife (B. Efron, The Jackknife, 1982).

    With G groups and the estimate e_g without group g it is sqrt((G - 1) / G sum (e_g - mean)^2).

    Args:
        without: The estimate without each group, at least two.
    """
    values = np.asarray(without)
    return math.sqrt((len(values) - 1) / len(values) * float(((values - values.mean()) ** 2).sum()))


def jackknife_interval(value: float, without: Sequence[float]) -> Interval:
    """Return the 95 % interval of a fraction: the value plus or minus deviation times the quantile of Student's t.

    Args:
        value: The estimate.
        without: The estimate without each of G groups; t has G - 1 degrees of freedom.
    """
    half = float(scipy.special.stdtrit(len(without) - 1, 0.975)) * jackknife_deviation(without)
    return max(0.0, value - half), min(1.0, value + half)


class Comparison(Protocol):
    """Two networks on the same images."""

    @property
    def difference(self) -> float:
        """Accuracy of the first network minus that of the second, a fraction."""

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the difference."""

    @property
    def p_value_below(self) -> float:
        """One-sided p-value that the first network is less accurate than the second."""

    @property
    def significantly_below(self) -> bool:
        """Whether the first network is less accurate than the second at the 5 % level."""


@dataclass(frozen=True, kw_only=True)
class JackknifeComparison:
    """Two networks on the same images, by a score that is no mean over images; see `Comparison`.

    Attributes:
        difference: Score of the first network minus that of the second.
        without: The same without each group of images, in the same groups for both networks.
    """

    difference: float
    without: tuple[float, ...]

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the difference."""
        half = float(scipy.special.stdtrit(len(self.without) - 1, 0.975)) * jackknife_deviation(self.without)
        return max(-1.0, self.difference - half), min(1.0, self.difference + half)

    @property
    def p_value_below(self) -> float:
        """One-sided p-value of a t-test with G - 1 degrees of freedom."""
        deviation = jackknife_deviation(self.without)
        if not deviation:
            return 1.0 if self.difference >= 0 else 0.0
        return float(scipy.special.stdtr(len(self.without) - 1, self.difference / deviation))

    @property
    def significantly_below(self) -> bool:
        """Whether the first network is less accurate than the second at the 5 % level."""
        return self.p_value_below < SIGNIFICANCE


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """Two networks on the same images.

    Attributes:
        only_first: Images that only the first network classifies correctly.
        only_second: Images that only the second network classifies correctly.
        images: Number of images.
    """

    only_first: int
    only_second: int
    images: int

    @classmethod
    def of(cls, first: bytes, second: bytes, images: int) -> PairedComparison:
        """Compare two masks of correct predictions.

        Args:
            first: Of the first network, as `pack_mask` returns it.
            second: Of the second network, on the same images in the same order.
            images: Number of images.

        Returns:
            The comparison.
        """
        a, b = (int.from_bytes(mask, "big") >> max(0, 8 * len(mask) - images) for mask in (first, second))
        return cls(only_first=(a & ~b).bit_count(), only_second=(b & ~a).bit_count(), images=images)

    @property
    def difference(self) -> float:
        """Accuracy of the first network minus that of the second, a fraction."""
        return (self.only_first - self.only_second) / self.images

    @property
    def interval(self) -> Interval:
        """The 95 % interval of the difference: the adjusted Wald interval of D. G. Bonett and R. M. Price (JEBS 37, 2012).

        With p = (only_first + 1) / (images + 2) and q = (only_second + 1) / (images + 2) it is
        p - q ± 1.96 sqrt((p + q - (p - q)^2) / (images + 2)).
        """
        n = self.images + 2
        p, q = (self.only_first + 1) / n, (self.only_second + 1) / n
        half = Z_95 * math.sqrt((p + q - (p - q) ** 2) / n)
        return max(-1.0, p - q - half), min(1.0, p - q + half)

    @property
    def p_value_below(self) -> float:
        """One-sided p-value that the first network is less accurate than the second: exact McNemar test.

        If both are equally accurate, an image on which they differ favours each with probability 1/2, so that `only_first` is
        binomial (Q. McNemar, Psychometrika 12, 1947).
        """
        return float(scipy.special.bdtr(self.only_first, self.only_first + self.only_second, 0.5))

    @property
    def significantly_below(self) -> bool:
        """Whether the first network is less accurate than the second at the 5 % level."""
        return self.p_value_below < SIGNIFICANCE


def binomial_p_value_above(correct: int, images: int, share: float) -> float:
    """Compute the one-sided p-value that an accuracy is above a share: the probability of as many or more correct by chance.

    Args:
        correct: Number of correct predictions.
        images: Number of predictions.
        share: Probability that a prediction is correct by chance.

    Returns:
        The sum of the binomial probabilities from `correct` to `images`.
    """
    return float(scipy.special.bdtrc(correct - 1, images, share)) if correct else 1.0


def paired_significantly_below(first: Sequence[bytes], second: bytes, images: int) -> NDArray[np.bool_]:
    """Return which of several networks are less accurate than another one at the 5 % level: `PairedComparison` of each of them.

    Args:
        first: The mask of correct predictions of each of the N networks, as `pack_mask` returns it.
        second: The mask of the other network, on the same images in the same order.
        images: Number of images.

    Returns:
        A flag for each of the networks, `[N]`.
    """
    a, b = (np.frombuffer(mask, np.uint8).reshape(-1, len(second)) for mask in (b"".join(first), second))
    used = np.packbits(np.arange(8 * len(second)) < images)  # the last byte may have more bits than there are images left
    only_first, only_second = (np.bitwise_count(bits & used).sum(axis=1, dtype=np.int64) for bits in (a & ~b, b & ~a))
    return scipy.special.bdtr(only_first, only_first + only_second, 0.5) < SIGNIFICANCE


def unpaired_p_value_below(first: int, first_images: int, second: int, second_images: int) -> float:
    """One-sided p-value that an accuracy is below another one on other images: the pooled two-proportion z-test.

    With p the accuracy over all images it is Phi((a - b) / sqrt(p (1 - p) (1/n + 1/m))).

    Args:
        first: Number of correct predictions behind the accuracy that may be smaller.
        first_images: Number of its images.
        second: Number of correct predictions behind the other accuracy.
        second_images: Number of its images.

    Returns:
        The p-value, between 0 and 1.
    """
    pooled = (first + second) / (first_images + second_images)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / first_images + 1 / second_images))
    difference = first / first_images - second / second_images
    return float(scipy.special.ndtr(difference / deviation)) if deviation else 1.0


def pack_mask(correct: bytes) -> bytes:
    """Pack a mask of correct predictions to one bit an image.

    Args:
        correct: One byte for each image: 1 if it is classified correctly, else 0.

    Returns:
        `numpy.packbits` of the mask: the first image is the highest bit of the first byte.
    """
    return np.packbits(np.frombuffer(correct, np.uint8)).tobytes()
