"""What past work says of work to come: intervals from sums and counts. Pure; knows no batch or database.

All intervals are prediction intervals that hold with `CONFIDENCE`, if what comes is like what was.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

CONFIDENCE = 0.95
_TAIL = (1 - CONFIDENCE) / 2


class Measure(StrEnum):
    """What is measured of a finished cell: tokens, or seconds that the processor worked on it."""

    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True)
class Experience:
    """Sums over finished cells: x is the size of the document in bytes, y what was measured."""

    cells: int
    sum_x: float
    sum_xx: float
    sum_y: float
    sum_yy: float
    sum_xy: float
    max_y: float

    def __add__(self, other: "Experience") -> "Experience":
        return Experience(
            self.cells + other.cells,
            self.sum_x + other.sum_x,
            self.sum_xx + other.sum_xx,
            self.sum_y + other.sum_y,
            self.sum_yy + other.sum_yy,
            self.sum_xy + other.sum_xy,
            max(self.max_y, other.max_y),
        )


@dataclass(frozen=True, slots=True)
class Interval:
    """What is expected, and between which bounds; infinite where nothing bounds it from above."""

    low: float
    expected: float
    high: float

    def __add__(self, other: "Interval") -> "Interval":
        return Interval(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def times(self, factor: float) -> "Interval":
        """The same in another unit; `factor` is not negative."""
        return Interval(self.low * factor, self.expected * factor, self.high * factor)


def predict_total(experience: Experience, cells: int, bytes_together: float) -> Interval | None:
    """The sum of a measure over cells to come, by linear regression on the size of the document.

    Parameters
    ----------
    cells, bytes_together
        How many cells are to come, and the sizes of their documents added up.

    Returns
    -------
    Interval | None
        None where fewer than three cells were ever measured, from which no spread can be told.

    Notes
    -----
    With n cells of experience, m to come, and s the residual standard deviation, the variance of the
    difference between the sum to come and its prediction is s² (m + m²/n + (X - m x̄)² / Sxx), where X
    is `bytes_together`; the quotient follows Student's t (Draper and Smith, Applied Regression
    Analysis, section 3.1, summed over m observations).
    """
    # Loading scipy takes a fifth of a second, which most commands need not wait for.
    from scipy.special import stdtrit

    n = experience.cells
    if n < 3:
        return None
    mean_x, mean_y = experience.sum_x / n, experience.sum_y / n
    sxx = max(0.0, experience.sum_xx - n * mean_x**2)
    syy = max(0.0, experience.sum_yy - n * mean_y**2)
    sxy = experience.sum_xy - n * mean_x * mean_y
    # Documents of one size say nothing about other sizes; rounding leaves a little of nothing.
    sloped = sxx > 1e-9 * experience.sum_xx
    slope = sxy / sxx if sloped else 0.0
    freedom = n - 2 if sloped else n - 1
    residual = max(0.0, syy - slope * sxy) / freedom
    apart = bytes_together - cells * mean_x
    expected = max(0.0, cells * mean_y + slope * apart)
    variance = residual * (cells + cells**2 / n + (apart**2 / sxx if sloped else 0.0))
    half = float(stdtrit(freedom, 1 - _TAIL)) * math.sqrt(variance)
    return Interval(max(0.0, expected - half), expected, expected + half)


def predict_time(done: int, seconds: float, left: int, dispersion: float = 1.0) -> Interval | None:
    """How long `left` events take, when `done` of their kind took `seconds`.

    Parameters
    ----------
    dispersion
        How much more the counts vary than those of independent events; 1 or more.

    Returns
    -------
    Interval | None
        In seconds; None before anything is done.

    Notes
    -----
    For events at a constant rate, the quotient of the mean waiting times of two stretches follows F
    with twice the events of each as degrees of freedom. Events that come in bursts count as fewer.
    """
    from scipy.special import fdtri

    if done <= 0 or seconds <= 0:
        return None
    if left <= 0:
        return Interval(0.0, 0.0, 0.0)
    expected = left * seconds / done
    degrees = (2 * left / dispersion, 2 * done / dispersion)
    low, high = (expected * float(fdtri(*degrees, tail)) for tail in (_TAIL, 1 - _TAIL))
    return Interval(low, expected, high if math.isfinite(high) else math.inf)
