"""Marks where the scores of a series drift. Pure: takes sums and counts, returns marks.

Each occurrence is compared with all earlier ones since the last mark, by prompt and connection. The chance of
any false mark in the given occurrences is at most `SIGNIFICANT`: see docs/statistics.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.batches.results.checks import SMALLEST_DRIFT
from doceval_pipeline.batches.results.score_drift import SHARE_PAIRED
from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.findings import SIGNIFICANT, Difference
from doceval_pipeline.domain.series import SeriesDrift
from doceval_pipeline.statistics.inference import corrected

Counts = NDArray[np.float64]
# Scores are counted by whole points, 0 to 100, so that a test knows their distribution.
BINS = 101
# The tilt of the bound is searched from 0 to this value per point; the bound holds for any tilt.
_STEEPEST, _HALVINGS = 8.0, 40
_POINTS = np.arange(BINS, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class ScoreHistogram:
    """Scores counted by whole points, with their exact sum."""

    counts: Counts
    total: float

    @property
    def n(self) -> int:
        """The number of scores."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """The mean of at least one score."""
        return self.total / self.n

    def __add__(self, other: "ScoreHistogram") -> "ScoreHistogram":
        return ScoreHistogram(self.counts + other.counts, self.total + other.total)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The scores of a prompt and a connection in an occurrence, without reused results."""

    question: int
    """A number for each prompt text with a connection's settings."""
    asked: ScoreHistogram
    """All scores."""
    new: ScoreHistogram
    """Scores of documents without an earlier score for this question in the series."""
    pairs: int = 0
    """The number of other scores, each with an earlier one of its document."""
    moved: float = 0.0
    """The sum of the differences of pairs; `moved_squared` sums their squares."""
    moved_squared: float = 0.0


@dataclass(frozen=True, slots=True)
class _DriftLevel:
    """The scores of a question in all occurrences since the last mark."""

    question: int
    scores: ScoreHistogram


def mark_drift(
    occurrences: Sequence[Mapping[Column, Evidence]], places: Sequence[int]
) -> list[dict[Column, SeriesDrift]]:
    """Compare each occurrence with the earlier ones.

    Parameters
    ----------
    occurrences
        Evidence by column, oldest first.
    places
        The number of each occurrence among all that ever made a batch, from 1. Its share of the chance of a
        false mark depends only on this number, which no later occurrence or archive changes.

    Returns
    -------
    list[dict[Column, SeriesDrift]]
        The drift of each occurrence and column, with p corrected for the whole series; without p for columns
        that cannot be compared.
    """
    levels: dict[Column, _DriftLevel] = {}
    drifts_by_occurrence = []
    for evidence, place in zip(occurrences, places, strict=True):
        drifts = _correct({c: _compare(e, levels.get(c)) for c, e in evidence.items()}, place)
        for column, own in evidence.items():
            level = levels.get(column)
            if level is None or level.question != own.question or drifts[column].is_marked:
                levels[column] = _DriftLevel(own.question, own.asked)
            else:
                levels[column] = _DriftLevel(own.question, level.scores + own.new)
        drifts_by_occurrence.append(drifts)
    return drifts_by_occurrence


def chance_of_samples(first: ScoreHistogram, second: ScoreHistogram) -> float:
    """Upper bound of the chance that the means of two samples differ this much if scores are dealt at random.

    Notes
    -----
    The smaller sample is drawn from both without replacement. The moments of its sum are no larger than
    with replacement (Hoeffding 1963, theorem 4), for which Chernoff's bound holds for any number and shape of
    scores: 2 exp(-n sup_t (t x - log E exp(t X))). It is never too small, unlike normal approximations for
    few scores far from each other.
    """
    pooled = first.counts + second.counts
    sample = min(first, second, key=lambda scored: scored.n)
    reached = float(sample.counts @ _POINTS) / sample.n
    center = float(pooled @ _POINTS) / float(pooled.sum())
    if math.isclose(reached, center, abs_tol=1e-9):
        return 1.0
    seen = pooled > 0
    # Mirrored if the sample is below the center, so that the tilt is positive.
    values = (_POINTS[seen] - center) * (1.0 if reached > center else -1.0)
    rate = _largest_rate(values, pooled[seen] / pooled.sum(), abs(reached - center))
    return min(1.0, 2 * math.exp(-sample.n * rate))


def chance_of_pairs(moved: float, moved_squared: float) -> float:
    """Upper bound of the chance of this sum if each difference is as likely up as down (Hoeffding 1963)."""
    return 1.0 if moved_squared <= 0 else min(1.0, 2 * math.exp(-(moved**2) / (2 * moved_squared)))


def _compare(own: Evidence, level: _DriftLevel | None) -> SeriesDrift:
    """Compare an occurrence with the level of earlier ones, without correction of p."""
    is_other = level is not None and level.question != own.question
    if own.pairs and own.pairs >= SHARE_PAIRED * own.asked.n:
        p = chance_of_pairs(own.moved, own.moved_squared)
        return SeriesDrift(
            change=own.moved / own.pairs,
            p=p,
            now=own.pairs,
            before=own.pairs,
            is_paired=True,
            is_other_question=is_other,
        )
    if level is None or is_other or not own.new.n or not level.scores.n:
        return SeriesDrift(
            change=None, p=None, now=own.new.n, before=0, is_paired=False, is_other_question=is_other
        )
    p = chance_of_samples(level.scores, own.new)
    return SeriesDrift(
        change=own.new.mean - level.scores.mean,
        p=p,
        now=own.new.n,
        before=level.scores.n,
        is_paired=False,
        is_other_question=False,
    )


def _correct(drifts: Mapping[Column, SeriesDrift], place: int) -> dict[Column, SeriesDrift]:
    """Correct p for all columns (Holm) and for all occurrences that the series will ever have.

    The k-th occurrence has a share of 1 / ((k - 1) k) of the chance; all shares sum to 1.
    """
    together = corrected([Difference(d.now, d.change or 0.0, None, None, d.p, None) for d in drifts.values()])
    share = max(1, (place - 1) * place)
    return {
        column: _marked(drift, None if one.p is None else min(1.0, one.p * share))
        for (column, drift), one in zip(drifts.items(), together, strict=True)
    }


def _marked(drift: SeriesDrift, p: float | None) -> SeriesDrift:
    is_marked = p is not None and p < SIGNIFICANT and abs(drift.change or 0.0) >= SMALLEST_DRIFT
    return replace(drift, p=p, is_marked=is_marked)


def _largest_rate(values: Counts, weights: Counts, reached: float) -> float:
    """sup_t (t x - log E exp(t X)) over tilts t >= 0, for x above the mean of X; found by halving."""
    low, high, top = 0.0, _STEEPEST, float(values.max())
    for _ in range(_HALVINGS):
        tilt = (low + high) / 2
        tilted = weights * np.exp(tilt * (values - top))
        if float(tilted @ values) < reached * float(tilted.sum()):
            low = tilt
        else:
            high = tilt
    mass = float(weights @ np.exp(low * (values - top)))
    return max(0.0, low * (reached - top) - math.log(mass))
