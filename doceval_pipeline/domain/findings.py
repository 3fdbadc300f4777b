"""Results of `statistics` as plain data, importable without loading numpy, which takes a while.

Scores run from 0 to 100. Intervals hold with `CONFIDENCE`.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

CONFIDENCE = 0.95
SIGNIFICANT = 0.05


def least_for_difference(comparisons: int) -> int:
    """The fewest documents on which a signed-rank test can find a difference, corrected for all comparisons.

    The p of n documents that all agree is 2 / 2^n.
    """
    return math.ceil(1 + math.log2(max(1, comparisons) / SIGNIFICANT))


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean of `n` scores with its confidence interval, None for one score or equal scores."""

    n: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of paired differences, second minus first, over the `n` documents with both scores."""

    n: int
    mean: float
    low: float | None
    """Lower bound of the confidence interval; None if all differences are equal and show no spread."""
    high: float | None
    p: float | None
    """Of a signed-rank test on the pairs; after `corrected`, adjusted for all comparisons made together."""
    detectable: float | None
    """The smallest true difference that as many pairs would show with 80 % power."""

    @property
    def told_apart(self) -> bool:
        """Whether the two differ significantly: the interval excludes 0 and the test agrees."""
        beyond = self.low is None or self.high is None or self.low > 0 or self.high < 0
        return self.p is not None and self.p < SIGNIFICANT and beyond

    def turned(self) -> "Difference":
        """The difference with its sides swapped."""
        # Subtracted from 0, because people do not write -0.0.
        low, high = (None if bound is None else 0.0 - bound for bound in (self.high, self.low))
        return replace(self, mean=0.0 - self.mean, low=low, high=high)


@dataclass(frozen=True, slots=True)
class Interval:
    """An expected value with its prediction interval; `high` is infinite if there is no upper bound."""

    low: float
    expected: float
    high: float

    def __add__(self, other: "Interval") -> "Interval":
        return Interval(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def times(self, factor: float) -> "Interval":
        """The interval scaled to another unit; `factor` must not be negative."""
        return Interval(self.low * factor, self.expected * factor, self.high * factor)


class Conclusion(StrEnum):
    """What a comparison with a margin shows."""

    NO_WORSE = "shown to be no worse"
    WORSE = "shown to be worse"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True, slots=True)
class MarginTest:
    """Whether scores are lower than others by at most `margin` points, on the documents with both scores."""

    margin: float
    conclusion: Conclusion
    more_documents: int | None
    """About how many more documents would settle it, with 80 % power; None if it is settled or if no number
    would."""
