"""What `statistics` finds, as data; apart from it, because loading numpy takes a while, which only those
wait for who compute.

Scores run from 0 to 100. Intervals hold with `CONFIDENCE`.
"""

from dataclasses import dataclass

CONFIDENCE = 0.95
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of `n` values with its interval, which one value or equal values do not have."""

    n: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of paired differences, second minus first, over the `n` documents that both scored.

    `low` and `high` are its interval, None where all differences are equal, which says nothing of their
    spread. `p` is of a signed-rank test on the pairs; of `corrected` differences it allows for all
    comparisons that were made. `detectable` is the smallest true difference that as many pairs would show
    with 80 % power. All of these are None of a single pair.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None

    @property
    def told_apart(self) -> bool:
        """Whether the data tell the two apart: the interval leaves out 0, and the test agrees."""
        beyond = self.low is None or self.high is None or self.low > 0 or self.high < 0
        return self.p is not None and self.p < SIGNIFICANT and beyond
