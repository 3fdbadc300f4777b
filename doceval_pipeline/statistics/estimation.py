"""Predictions from past work: intervals from sums and counts.

All are prediction intervals that hold with `CONFIDENCE` if future work resembles past work.
"""

import math

from doceval_pipeline.domain.findings import CONFIDENCE, Interval
from doceval_pipeline.domain.usage import Experience

_TAIL = (1 - CONFIDENCE) / 2


def predict_total(experience: Experience, cells: int, bytes_together: float) -> Interval | None:
    """The predicted sum of a measure over future evaluations, by linear regression on document size.

    Parameters
    ----------
    cells, bytes_together
        The number of future evaluations, and the sizes of their documents added up, in bytes.

    Returns
    -------
    Interval | None
        None if fewer than three evaluations were measured, too few to know their spread.

    Notes
    -----
    With n measured evaluations, m future ones, and s the residual standard deviation, the variance of the
    difference between the future sum and its prediction is s² (m + m²/n + (X - m x̄)² / Sxx), where X
    is `bytes_together`; the quotient follows Student's t (Draper and Smith, Applied Regression
    Analysis, section 3.1, summed over m observations).
    """
    # Loading scipy takes a fifth of a second; most commands do not need it.
    from scipy.special import stdtrit

    n = experience.cells
    if n < 3:
        return None
    mean_x, mean_y = experience.sum_x / n, experience.sum_y / n
    sxx = max(0.0, experience.sum_xx - n * mean_x**2)
    syy = max(0.0, experience.sum_yy - n * mean_y**2)
    sxy = experience.sum_xy - n * mean_x * mean_y
    # Documents of one size show no slope; rounding may leave a tiny sxx.
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
    """The predicted seconds for `left` events, given that `done` such events took `seconds`.

    Parameters
    ----------
    dispersion
        How much more the counts vary than those of independent events; 1 or more.

    Returns
    -------
    Interval | None
        In seconds; None before any event is done.

    Notes
    -----
    For events at a constant rate, the quotient of the mean waiting times of two periods follows F with
    twice the events of each as degrees of freedom. Events in bursts count as fewer.
    """
    from scipy.special import fdtri

    if done <= 0 or seconds <= 0:
        return None
    if left <= 0:
        return Interval(0.0, 0.0, 0.0)
    expected = left * seconds / done
    degrees = (2 * left / dispersion, 2 * done / dispersion)
    low, high = (expected * float(fdtri(*degrees, tail)) for tail in (_TAIL, 1 - _TAIL))
    # With very few degrees of freedom the quantile overflows, or underflows to almost 0.
    return Interval(low, expected, high if expected <= high < math.inf else math.inf)
