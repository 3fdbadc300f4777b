"""Inference from samples of scores: means, paired differences and rank correlation.

Scores run from 0 to 100. Intervals hold with `CONFIDENCE`. docs/statistics.md explains each method and why it
was chosen. The order of values never matters, and the same values always give the same numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from doceval_pipeline.domain.findings import CONFIDENCE, Difference, Estimate
from doceval_pipeline.statistics.clusters import ClusterSums, Values, cluster_sums, spread_of

Places = NDArray[np.int64]

POWER = 0.8
_TAIL = (1 - CONFIDENCE) / 2
# Fewer pairs show too little of their distribution; for more, Student's interval saves millions of draws.
# doceval_pipeline_tests/statistics/test_interval_coverage.py measures the coverage of both.
BOOTSTRAP_FROM, BOOTSTRAP_TO = 15, 500
_RESAMPLES = 9_999
_RESAMPLED_AT_ONCE = 2_000_000
_SEED = 20_260_101
# Up to this many nonzero differences, all arrangements of signs are counted; see `_exact_p`.
EXACT_TO = 60
_EXTREME = 100.0
# Assumed standard deviation of the paired differences of two models, in points, before any are scored. Two
# models whose scores of a document err by 10 points each, as in the simulations of docs/statistics.md, differ
# by 14; with 15 points, 10 documents show differences of about 15 points.
TYPICAL_SPREAD = 15.0


def estimate(values: ArrayLike) -> Estimate | None:
    """The mean of independent scores; None without scores."""
    scores = np.asarray(values, dtype=np.float64)
    return clustered_estimate(scores, np.arange(scores.size))


def clustered_estimate(values: ArrayLike, clusters: ArrayLike) -> Estimate | None:
    """The mean of scores that are dependent within a cluster.

    Parameters
    ----------
    values
        Scores, from 0 to 100.
    clusters
        The cluster of each score, by number: its document.

    Returns
    -------
    Estimate | None
        None without scores; without an interval for a single cluster or without spread between clusters.

    Notes
    -----
    `spread_of` describes the variance of such a mean. With one score per cluster this is the usual interval.
    """
    scores = np.asarray(values, dtype=np.float64)
    if not scores.size:
        return None
    mean = math.fsum(scores) / scores.size
    sample = cluster_sums(scores, clusters)
    spread, freedom = spread_of(sample, mean)
    if not spread:
        return Estimate(scores.size, mean, None, None)
    half = _quantile(1 - _TAIL, freedom) * spread / math.sqrt(sample.sums.size)
    return Estimate(scores.size, mean, max(0.0, mean - half), min(_EXTREME, mean + half))


def estimate_of_sums(n: int, mean: float, clusters: int, spread: float) -> Estimate:
    """A `clustered_estimate` from sums, for many clusters or ones of similar sizes.

    Parameters
    ----------
    n, mean
        The number of scores, and their mean.
    clusters
        The number of clusters with a score.
    spread
        Σ e², where e is the sum of a cluster's deviations from the mean.

    Notes
    -----
    The variance of the mean is G / (G - 1) Σ e² / n², with G clusters and Student's t with G - 1 degrees of
    freedom (Cochran, Sampling Techniques, chapter 9A). With few clusters of very unequal sizes, the interval
    is shorter than that of `clustered_estimate`.
    """
    if clusters < 2 or not spread:
        return Estimate(n, mean, None, None)
    error = math.sqrt(clusters / (clusters - 1) * spread) / n
    half = _quantile(1 - _TAIL, clusters - 1) * error
    return Estimate(n, mean, max(0.0, mean - half), min(_EXTREME, mean + half))


def difference_of_sums(n: int, mean: float, clusters: int, spread: float) -> Difference:
    """A paired difference from sums, with Student's interval and the p of the same t test.

    Parameters
    ----------
    n, mean
        The number of pairs, and the mean of their differences.
    clusters, spread
        As those of `estimate_of_sums`, of the differences.
    """
    if clusters < 2:
        return Difference(n, mean, None, None, None, None)
    if not spread:
        # All clusters differ alike: p is the chance of equal signs.
        return Difference(n, mean, None, None, 2.0 ** (1 - clusters) if mean else 1.0, None)
    from scipy.special import stdtr

    freedom = clusters - 1
    error = math.sqrt(clusters / freedom * spread) / n
    quantile = _quantile(1 - _TAIL, freedom)
    return Difference(
        n,
        mean,
        max(-_EXTREME, mean - quantile * error),
        min(_EXTREME, mean + quantile * error),
        float(2 * stdtr(freedom, -abs(mean) / error)),
        detectable_difference(clusters, error * math.sqrt(clusters)),
    )


def difference(
    first: ArrayLike, second: ArrayLike, *, resample: bool = True, clusters: ArrayLike | None = None
) -> Difference | None:
    """How much higher the second of each pair scores than the first, in points; None without pairs.

    Parameters
    ----------
    first, second
        Scores of the same documents in the same order, none of them NaN.
    resample
        Allows a bootstrap interval, which takes up to a hundred times as long as Student's.
    clusters
        The number of each pair's cluster, within which pairs are dependent: versions and copies of a
        document, or several prompts on one. The mean stays that of all pairs; interval, p and the smallest
        detectable difference count clusters. None if each pair is its own.

    Returns
    -------
    Difference | None
        Its `p` is not corrected: pass comparisons that are shown together to `corrected`.
    """
    pairs = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    sample = cluster_sums(pairs, clusters)
    swapped = sample.turned()
    # Both directions use the same pairs, so that swapping the sides only changes the signs.
    if sample.before(swapped):
        opposite = _difference(swapped, resample=resample)
        return None if opposite is None else opposite.turned()
    return _difference(sample, resample=resample)


def detectable_difference(documents: int, spread: float) -> float | None:
    """The smallest true mean difference that a t test of so many pairs finds with `POWER`, in points.

    Parameters
    ----------
    spread
        The standard deviation of paired differences: `TYPICAL_SPREAD` before any are known.

    Returns
    -------
    float | None
        None if so few documents show no possible difference of scores.
    """
    return _detectable(documents, spread, documents - 1)


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The same differences with each p corrected for all of them (Holm)."""
    places = [place for place, each in enumerate(differences) if each.p is not None]
    result = list(differences)
    for place, p in zip(places, holm([differences[place].p or 0.0 for place in places]), strict=True):
        result[place] = replace(differences[place], p=p)
    return result


def holm(ps: Sequence[float]) -> list[float]:
    """Each p corrected for all of them, so that the chance of any false finding stays below the level."""
    result, least = list(ps), 0.0
    for rank, (p, place) in enumerate(sorted((p, place) for place, p in enumerate(ps))):
        least = max(least, min(1.0, p * (len(ps) - rank)))
        result[place] = least
    return result


def places(values: ArrayLike) -> Places:
    """The place of each value among all different values, from 0, the lowest first; equal ones share it."""
    return np.unique(np.asarray(values, dtype=np.float64), return_inverse=True)[1].ravel()


def correlation_of_places(first: Places, second: Places) -> float | None:
    """Spearman's correlation of pairs; None if one side always scores the same, or for a single pair.

    `places` are those in the given values or among more of them: values in many pairs are sorted once.
    """
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    ranks = np.column_stack([_ranks(first)[0], _ranks(second)[0]])
    correlations = np.asarray(np.corrcoef(ranks, rowvar=False))
    return float(correlations[1, 0])


def _ranks(of: Places) -> tuple[Values, Values]:
    """The rank of each value by its place, the mean rank where values are equal; and how many are equal."""
    ties = np.bincount(of).astype(np.float64)
    ranks: Values = np.cumsum(ties) - (ties - 1) / 2
    return ranks[of], ties


def _difference(sample: ClusterSums, *, resample: bool) -> Difference | None:
    """The mean of differences, with its interval and p."""
    n = sample.n
    if n == 0:
        return None
    mean = math.fsum(sample.sums) / n
    if sample.sums.size == 1:
        return Difference(n, mean, None, None, None, None)
    p = _signed_rank_p(sample.sums)
    spread, freedom = spread_of(sample, mean)
    if not spread:
        return Difference(n, mean, None, None, p, None)
    half = _quantile(1 - _TAIL, freedom) * spread / math.sqrt(sample.sums.size)
    low, high = _interval(sample, mean, half, resample=resample)
    return Difference(n, mean, low, high, p, _detectable(sample.sums.size, spread, freedom))


def _interval(sample: ClusterSums, mean: float, half: float, *, resample: bool) -> tuple[float, float]:
    """The interval of the mean of unequal differences: the wider end of Student's and Efron's on each side.

    Student's is too short on the side of a long tail, and the bootstrap on both sides for few pairs; the
    wider end of the two holds in both cases, at little cost.
    """
    low, high = max(-_EXTREME, mean - half), min(_EXTREME, mean + half)
    if resample and BOOTSTRAP_FROM <= sample.sums.size <= BOOTSTRAP_TO:
        resampled = _bootstrap(sample)
        # fmin and fmax ignore NaN, which the bootstrap returns where hardly any pair differs.
        return float(np.fmin(low, resampled[0])), float(np.fmax(high, resampled[1]))
    return low, high


def _bootstrap(sample: ClusterSums) -> tuple[float, float]:
    """The bias-corrected and accelerated bootstrap interval of the mean, from sorted clusters."""
    from scipy.stats import bootstrap

    alone = sample.singletons
    interval = bootstrap(
        (sample.sums,) if alone else (sample.sums, sample.sizes),
        np.mean if alone else _ratio,
        paired=not alone,
        confidence_level=CONFIDENCE,
        n_resamples=_RESAMPLES,
        batch=max(1, _RESAMPLED_AT_ONCE // sample.sums.size),
        method="BCa",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _ratio(sums: Values, sizes: Values, axis: int = -1) -> Values:
    """The mean over all values of resampled clusters."""
    return np.asarray(sums.sum(axis=axis) / sizes.sum(axis=axis), dtype=np.float64)


def _signed_rank_p(pairs: Values) -> float:
    """The p of Wilcoxon's signed-rank test, two-sided: how likely such unequal ranks are if signs are random.

    Pairs without a difference are ranked with the rest and then left out (Pratt): all pairs that differ rank
    above them.
    """
    differs = pairs != 0
    if not differs.any():
        return 1.0
    ranks, ties = _ranks(places(np.abs(pairs)))
    if np.count_nonzero(differs) <= EXACT_TO:
        return _exact_p(ranks[differs], pairs[differs] > 0, int(np.count_nonzero(~differs)))
    return _asymptotic_p(ranks, ties, pairs)


def _asymptotic_p(ranks: Values, ties: Values, pairs: Values) -> float:
    """The normal approximation, corrected for ties, and for zeros as Cureton (1967) does.

    The same number as scipy's `wilcoxon` with `zero_method="pratt"`, which takes 20 times as long.
    """
    from scipy.special import ndtr

    n, zeros = float(pairs.size), float(np.count_nonzero(pairs == 0))
    if zeros:
        ties = ties[1:]
    mean = (n * (n + 1) - zeros * (zeros + 1)) / 4
    variance = n * (n + 1) * (2 * n + 1) - zeros * (zeros + 1) * (2 * zeros + 1)
    variance -= float((ties**3 - ties).sum()) / 2
    z = (float(ranks[pairs > 0].sum()) - mean) / math.sqrt(variance / 24)
    return min(1.0, 2 * float(ndtr(-abs(z))))


def _exact_p(ranks: Values, positive: NDArray[np.bool_], zeros: int) -> float:
    """The share of the 2^m ways to sign m ranks that are at least as unequal as the observed one.

    scipy counts them only without ties and zeros, both of which are common in scores. `zeros` pairs rank
    below all others: they are subtracted from the ranks and added back by the number of positive signs, which
    keeps the sums small.
    """
    doubled = np.rint(2 * (ranks - zeros)).astype(np.int64)  # ranks of ties end in .5
    # Without zeros the number of positive signs does not matter: 0.3 ms instead of 8 for 60 ranks.
    ways = np.zeros((ranks.size + 1 if zeros else 1, int(doubled.sum()) + 1))
    ways[0, 0] = 1.0
    for rank in doubled:
        if zeros:
            ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank].copy()
        else:
            ways[0, rank:] += ways[0, : ways.shape[1] - rank].copy()
    signs, sums = np.ogrid[: ways.shape[0], : ways.shape[1]]
    unequal = np.abs(2 * (2 * zeros * signs + sums) - 2 * ranks.sum())
    observed = abs(4 * ranks[positive].sum() - 2 * ranks.sum())
    return min(1.0, float(ways[unequal >= observed].sum() / 2.0**ranks.size))


def _detectable(clusters: int, spread: float, freedom: float) -> float | None:
    """The smallest difference that a t test of so many clusters of this spread finds with `POWER`."""
    from scipy.special import nctdtrinc

    if freedom < 1:
        return None
    shift = float(nctdtrinc(freedom, 1 - POWER, _quantile(1 - _TAIL, freedom)))
    smallest = shift * spread / math.sqrt(clusters)
    # No difference of scores is larger: so few cannot show any.
    return smallest if smallest <= _EXTREME else None


def _quantile(share: float, freedom: float) -> float:
    """A quantile of Student's t distribution."""
    # Loading scipy takes a fifth of a second; most commands do not need it.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))
