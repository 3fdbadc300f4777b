"""What scores say of what is not seen: means, paired differences and ranks. Pure; knows no batch or database.

Scores run from 0 to 100. Intervals hold with `CONFIDENCE`. Which method is used for what, and why, is
told in docs/statistics.md. The order of values never matters, and the same values give the same numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from doceval_pipeline.domain.findings import CONFIDENCE, Difference, Estimate

POWER = 0.8
_TAIL = (1 - CONFIDENCE) / 2
# Fewer pairs say too little of their shape; more have Student's interval, for millions of draws less. What
# either holds is measured in doceval_pipeline_tests/test_coverage.py.
BOOTSTRAP_FROM, BOOTSTRAP_TO = 15, 500
_RESAMPLES = 9_999
_RESAMPLED_AT_ONCE = 2_000_000
_SEED = 20_260_101
# Of so many differences that are not 0, all arrangements of signs are counted; see `_exact_p`.
EXACT_TO = 60
# What differs by less is equal: 0.3 - 0.1 and 0.2 are the same difference, and take the same rank.
_DECIMALS = 9
_EXTREME = 100.0

Values = NDArray[np.float64]


def estimate(values: ArrayLike) -> Estimate | None:
    """The mean of independent scores; None of no score."""
    found = np.asarray(values, dtype=np.float64)
    return clustered_estimate(found, np.arange(found.size))


def clustered_estimate(values: ArrayLike, clusters: ArrayLike) -> Estimate | None:
    """The mean of scores, of which those in one cluster are not independent.

    Parameters
    ----------
    values
        Scores, from 0 to 100.
    clusters
        For each of them the number of its cluster: the document that it is of.

    Returns
    -------
    Estimate | None
        None of no score; without interval where there is one cluster, or no spread between clusters.

    Notes
    -----
    The mean is a ratio of two sums over clusters, of scores and of their number; its variance is
    G / (G - 1) Σ e² / n², where e is the sum of a cluster's deviations from the mean and G the number of
    clusters, and it is held against Student's t with G - 1 degrees of freedom (Cochran, Sampling
    Techniques, chapter 9A). With one score in each cluster it is the usual interval of a mean.
    """
    found = np.asarray(values, dtype=np.float64)
    if not found.size:
        return None
    mean = math.fsum(found) / found.size
    _, places = np.unique(np.asarray(clusters), return_inverse=True)
    deviations = np.sort(np.round(np.bincount(places.ravel(), weights=found - mean), _DECIMALS))
    return estimate_of_sums(found.size, mean, deviations.size, float(deviations @ deviations))


def estimate_of_sums(n: int, mean: float, clusters: int, spread: float) -> Estimate:
    """A `clustered_estimate` of what somebody else has added up.

    Parameters
    ----------
    n, mean
        The number of scores, and their mean.
    clusters
        How many clusters have a score.
    spread
        Σ e², where e is the sum of a cluster's deviations from the mean.
    """
    if clusters < 2 or not spread:
        return Estimate(n, mean, None, None)
    error = math.sqrt(clusters / (clusters - 1) * spread) / n
    half = _quantile(1 - _TAIL, clusters - 1) * error
    return Estimate(n, mean, max(0.0, mean - half), min(_EXTREME, mean + half))


def difference(first: ArrayLike, second: ArrayLike, resample: bool = True) -> Difference | None:
    """How much more the second of each pair scores than the first; None of no pair.

    Parameters
    ----------
    first, second
        Scores of the same documents in the same order, none of them NaN.
    resample
        Whether the interval may be a bootstrap's, which takes up to a hundred times as long as Student's.

    Returns
    -------
    Difference | None
        Its `p` is not corrected: where several comparisons are shown together, give them to `corrected`.
    """
    raw = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    pairs = np.sort(np.round(raw, _DECIMALS))
    turned = -pairs[::-1]
    # Either way round the same pairs are looked at, so that a comparison turned round is the same, turned.
    apart = np.flatnonzero(pairs != turned)
    if apart.size and pairs[apart[0]] < turned[apart[0]]:
        found = _difference(turned, resample)
        return None if found is None else _turned(found)
    return _difference(pairs, resample)


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The same differences with each p as it is when all of them are looked at together, after Holm."""
    tested = sorted((found.p, place) for place, found in enumerate(differences) if found.p is not None)
    result, least = list(differences), 0.0
    for rank, (p, place) in enumerate(tested):
        least = max(least, min(1.0, p * (len(tested) - rank)))
        result[place] = replace(differences[place], p=least)
    return result


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's correlation of pairs; None where one side always scores the same, or of one pair."""
    from scipy.stats import spearmanr

    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.size < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)


def _difference(pairs: Values, resample: bool) -> Difference | None:
    """Of sorted differences."""
    n = pairs.size
    if n == 0:
        return None
    mean = math.fsum(pairs) / n
    if n == 1:
        return Difference(1, mean, None, None, None, None)
    p = _signed_rank_p(pairs)
    if pairs[0] == pairs[-1]:
        return Difference(n, mean, None, None, p, None)
    low, high = _interval(pairs, mean, resample)
    return Difference(n, mean, low, high, p, _detectable(pairs))


def _turned(found: Difference) -> Difference:
    """First minus second."""
    # Taken from 0, because -0.0 is not how people write it.
    low, high = (None if bound is None else 0.0 - bound for bound in (found.high, found.low))
    return replace(found, mean=0.0 - found.mean, low=low, high=high)


def _interval(pairs: Values, mean: float, resample: bool) -> tuple[float, float]:
    """Of the mean of differences that are not all equal: Student's, and where it reaches further Efron's.

    Student's is short on the side to which few differences are far off, and the bootstrap is short on both
    where pairs are few; the wider end of the two holds in both cases, at little cost.
    """
    half = _quantile(1 - _TAIL, pairs.size - 1) * float(np.std(pairs, ddof=1)) / math.sqrt(pairs.size)
    low, high = max(-_EXTREME, mean - half), min(_EXTREME, mean + half)
    if resample and BOOTSTRAP_FROM <= pairs.size <= BOOTSTRAP_TO:
        resampled = _bootstrap(pairs)
        # fmin and fmax, because nothing is resampled from where hardly anything differs.
        return float(np.fmin(low, resampled[0])), float(np.fmax(high, resampled[1]))
    return low, high


def _bootstrap(pairs: Values) -> tuple[float, float]:
    """The bias-corrected and accelerated bootstrap interval of the mean, from sorted differences."""
    from scipy.stats import bootstrap

    interval = bootstrap(
        (pairs,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=_RESAMPLES,
        batch=max(1, _RESAMPLED_AT_ONCE // pairs.size),
        method="BCa",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _signed_rank_p(pairs: Values) -> float:
    """Wilcoxon's signed-rank test, two-sided: how likely so unequal ranks are where signs are chance.

    Pairs without a difference are ranked with the rest and then left out (Pratt): they say that nothing
    moved, and what did move ranks above them.
    """
    from scipy.stats import rankdata, wilcoxon

    moved = pairs != 0
    if not moved.any():
        return 1.0
    if np.count_nonzero(moved) <= EXACT_TO:
        ranks = rankdata(np.abs(pairs))[moved]
        return _exact_p(ranks, pairs[moved] > 0, pairs.size - ranks.size)
    return float(wilcoxon(pairs, zero_method="pratt", method="asymptotic").pvalue)


def _exact_p(ranks: Values, positive: NDArray[np.bool_], zeros: int) -> float:
    """How many of the 2^m ways to give signs to m ranks are as unequal as this one, as a share of all.

    scipy counts them only without ties and zeros, which scores are full of. `zeros` pairs rank below all:
    they are taken off the ranks, and counted by the number of positive signs, which keeps sums small.
    """
    doubled = np.rint(2 * (ranks - zeros)).astype(np.int64)  # ranks of ties end in .5
    ways = np.zeros((ranks.size + 1, int(doubled.sum()) + 1))
    ways[0, 0] = 1.0
    for rank in doubled:
        ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank].copy()
    signs, sums = np.ogrid[: ways.shape[0], : ways.shape[1]]
    unequal = np.abs(2 * (2 * zeros * signs + sums) - 2 * ranks.sum())
    observed = abs(4 * ranks[positive].sum() - 2 * ranks.sum())
    return min(1.0, float(ways[unequal >= observed].sum() / 2.0**ranks.size))


def _detectable(pairs: Values) -> float | None:
    """The difference that a t test of as many pairs of this spread finds with `POWER`."""
    from scipy.special import nctdtrinc

    freedom = pairs.size - 1
    shift = float(nctdtrinc(freedom, 1 - POWER, _quantile(1 - _TAIL, freedom)))
    found = shift * float(np.std(pairs, ddof=1)) / math.sqrt(pairs.size)
    # Larger differences there are not: so few pairs would show none.
    return found if found <= _EXTREME else None


def _quantile(share: float, freedom: int) -> float:
    """Of Student's t distribution."""
    # Loading scipy takes a fifth of a second, which most commands need not wait for.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))
