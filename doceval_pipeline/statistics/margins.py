"""Placeholder of the margin test."""

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from doceval_pipeline.domain.findings import Conclusion, MarginTest
from doceval_pipeline.statistics.inference import difference


@dataclass(frozen=True, slots=True)
class PairedMargin:
    """A test."""

    margin: float
    low: float | None
    high: float | None


def paired_margin(
    first: ArrayLike, second: ArrayLike, margin: float, *, clusters: ArrayLike | None = None
) -> PairedMargin | None:
    """A test."""
    found = difference(first, second, clusters=clusters)
    return None if found is None else PairedMargin(margin, found.low, found.high)


def conclude(tests: Sequence[PairedMargin]) -> list[MarginTest]:
    """Conclusions."""
    return [
        MarginTest(
            test.margin,
            Conclusion.NO_WORSE
            if test.low is not None and test.low > -test.margin
            else Conclusion.WORSE
            if test.high is not None and test.high < -test.margin
            else Conclusion.UNKNOWN,
            None,
        )
        for test in tests
    ]
