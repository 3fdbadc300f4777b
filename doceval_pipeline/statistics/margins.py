"""Whether one model scores no worse than another by more than a margin, without assumptions about scores.

docs/statistics.md explains the method and lists measured rates of false conclusions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from doceval_pipeline.domain.findings import SIGNIFICANT, Conclusion, MarginTest
from doceval_pipeline.statistics.clusters import ClusterSums, Values, cluster_sums
from doceval_pipeline.statistics.inference import holm

_EXTREME = 100.0
# More documents are not a practical way to settle a comparison.
_MOST_DOCUMENTS = 10_000
# 80 % of samples have a mean above the true one less this many standard errors.
_Z_POWER = 0.8416212335729143
# With more different values, neighbours are joined: 1,000 bins are 0.2 points wide.
_MOST_VALUES = 1_000
# The integrand is analytic, so the trapezoidal rule has a relative error of about 1e-10 with this step.
_STEP = 0.2
_NODES = np.arange(0.0, 20.0, _STEP)


@dataclass(frozen=True, slots=True)
class MarginEvidence:
    """What paired scores say about a margin, before `conclude` corrects all tests that are shown together."""

    margin: float
    n: int
    """Documents with both scores."""
    p_no_worse: float
    """The largest chance of such evidence for "no worse" if the true mean difference is -margin or lower."""
    p_worse: float
    """The same for "worse", if the true mean difference is -margin or higher."""
    gains: tuple[float, ...]
    """How far each cluster's sum of differences lies above the margin, in points; equal ones joined."""
    counts: tuple[float, ...]
    """The number of clusters with each of the `gains`."""
    unit: float
    """Documents of a cluster, as a document sees it: of the cluster that a random document is in."""


def margin_test(
    first: ArrayLike, second: ArrayLike, margin: float, *, clusters: ArrayLike | None = None
) -> MarginEvidence:
    """The evidence that the second of each pair scores no worse, or worse, than the first less a margin.

    Parameters
    ----------
    first, second
        Scores of the same documents in the same order, none of them NaN: of the leader and the candidate.
    margin
        In points, above 0 and at most 100.
    clusters
        The number of each document's cluster; None if each document is its own.

    Notes
    -----
    One document with the worst possible difference is added to the sample: -100 points for "no worse", +100
    for "worse". p is the chance that the mean with random weights, uniform among those that sum to 1, lies on
    the wrong side of -margin (Gaffke 2005; Learned-Miller and Thomas 2019). For n equal differences this is
    the exact binomial bound: collapses that n documents do not show may affect 1 - p^(1/n) of all.
    """
    pairs = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    sample = cluster_sums(pairs, clusters)
    if not sample.n:
        return MarginEvidence(margin, 0, 1.0, 1.0, (), (), 1.0)
    gains, counts = _binned(sample, margin)
    unit = float(sample.sizes @ sample.sizes) / sample.n
    evidence = MarginEvidence(margin, sample.n, 1.0, 1.0, tuple(gains), tuple(counts), unit)
    no_worse, worse = (_p(*_side(evidence, worse=worse), 1.0, 0.0) for worse in (False, True))
    return MarginEvidence(margin, sample.n, no_worse, worse, tuple(gains), tuple(counts), unit)


def conclude(tests: Sequence[MarginEvidence], *, models: int | None = None) -> list[MarginTest]:
    """The conclusions of all tests that are shown together, in the same order.

    The chance of any false "no worse" among them is at most 5 %, and so is that of any false "worse" (Holm).

    Parameters
    ----------
    models
        How many models could have become the leader, whose scores are the highest partly by chance; None if
        they are as many as the tests and one more. This makes "worse" harder to show; "no worse" is harder to
        show anyway against a leader that was lucky.
    """
    no_worse = holm([test.p_no_worse for test in tests])
    leaders = len(tests) + 1 if models is None else models
    worse = holm([min(1.0, leaders * test.p_worse) for test in tests])
    open_no_worse = sum(p > SIGNIFICANT for p in no_worse)
    open_worse = leaders * sum(p > SIGNIFICANT for p in worse)
    found = []
    for test, better, lower in zip(tests, no_worse, worse, strict=True):
        if better <= SIGNIFICANT:
            found.append(MarginTest(test.margin, Conclusion.NO_WORSE, None))
        elif lower <= SIGNIFICANT:
            found.append(MarginTest(test.margin, Conclusion.WORSE, None))
        else:
            more = _more_documents(test, SIGNIFICANT / open_no_worse, SIGNIFICANT / open_worse)
            found.append(MarginTest(test.margin, Conclusion.UNKNOWN, more))
    return found


def _side(evidence: MarginEvidence, *, worse: bool) -> tuple[Values, Values, float]:
    """Gains in the direction to be shown, their counts, and the gain of the worst possible cluster."""
    gains, counts = np.array(evidence.gains), np.array(evidence.counts)
    if worse:
        return -gains, counts, -evidence.unit * (_EXTREME + evidence.margin)
    return gains, counts, -evidence.unit * (_EXTREME - evidence.margin)


def _binned(sample: ClusterSums, margin: float) -> tuple[Values, Values]:
    """The different gains over the margin and their counts; of very many, neighbours share their mean."""
    gains = np.round(sample.sums + margin * sample.sizes, 9)
    values, counts = np.unique(gains, return_counts=True)
    if values.size <= _MOST_VALUES:
        return values, counts.astype(np.float64)
    width = float(np.ptp(gains)) / _MOST_VALUES
    places = np.floor((gains - gains.min()) / width).astype(np.int64)
    members = np.bincount(places)
    sums = np.bincount(places, weights=gains)
    return sums[members > 0] / members[members > 0], members[members > 0].astype(np.float64)


def _p(gains: Values, counts: Values, worst: float, growth: float, shift: float) -> float:
    """The chance that the randomly weighted mean of gains and the worst one is below 0.

    Parameters
    ----------
    growth
        How many times as many clusters are assumed.
    shift
        By how much lower all gains are assumed.
    """
    values, shapes = np.append(gains - shift, worst), np.append(counts * growth, 1.0)
    lowest = float(values.min())
    if values.max() <= 0:
        return 1.0
    return 0.0 if lowest >= 0 else _chance_below_0(values / -lowest, shapes)


def _chance_below_0(values: Values, shapes: Values) -> float:
    """The chance that a sum of gamma variables times values, the lowest of which is -1, is below 0.

    Weights that are uniform among those that sum to 1 are independent exponential variables over their sum,
    so that the sign of this sum is that of the weighted mean.

    Notes
    -----
    With the cumulant generating function K(t), the chance is an integral of exp(K(t)) / t along any curve
    that crosses the real axis between -1 and 0. Through the saddle, and bent by the third derivative there,
    the integrand hardly oscillates (Daniels, Saddlepoint approximations in statistics, 1954).
    """
    saddle = _saddle(values, shapes)
    slopes = values / (1 - saddle * values)
    second = float(shapes @ slopes**2) + saddle**-2
    third = 2 * float(shapes @ slopes**3) - 2 * saddle**-3
    width = second**-0.5
    bend = -third * width / (3 * second)
    sinh, cosh = np.sinh(_NODES), np.cosh(_NODES)
    curve = saddle + width * (1j * sinh - bend * (cosh - 1))
    # Not by BLAS, whose threads wait for each other on a busy machine.
    logs = -np.einsum("i,ij->j", shapes, np.log(1 - np.multiply.outer(values, curve)))
    at_saddle = float(logs[0].real)
    heights = np.imag(np.exp(logs - at_saddle) / curve * width * (1j * cosh - bend * sinh))
    heights[0] /= 2
    return min(1.0, max(0.0, -float(heights.sum()) * _STEP / math.pi * math.exp(at_saddle)))


def _saddle(values: Values, shapes: Values) -> float:
    """Where exp(K(t)) / -t is least between -1 and 0, by bisection of its logarithm's derivative."""
    low, high = -1.0, 0.0
    for _ in range(30):
        middle = (low + high) / 2
        if float(shapes @ (values / (1 - middle * values))) < 1 / middle:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _more_documents(evidence: MarginEvidence, no_worse: float, worse: float) -> int | None:
    """About how many more documents would show one side at its level with 80 % power.

    More documents are assumed to resemble those in the sample; None if more than a million would be needed.
    """
    clusters = sum(evidence.counts)
    mean = float(np.dot(evidence.gains, evidence.counts)) / clusters if clusters else 0.0
    if abs(mean) < 1e-9:
        return None
    gains, counts, worst = _side(evidence, worse=mean < 0)
    level = worse if mean < 0 else no_worse
    spread = math.sqrt(float(counts @ (gains - abs(mean)) ** 2) / max(1.0, clusters - 1))

    def settled(growth: float) -> bool:
        return _p(gains, counts, worst, growth, _Z_POWER * spread / math.sqrt(growth * clusters)) <= level

    enough = (evidence.n + _MOST_DOCUMENTS) / evidence.n
    if not settled(enough):
        return None
    few = 1.0
    while (enough - few) * evidence.n > max(1.0, 0.01 * few * evidence.n):
        middle = math.sqrt(few * enough)
        few, enough = (few, middle) if settled(middle) else (middle, enough)
    return max(1, math.ceil(round((enough - 1) * evidence.n, 6)))
