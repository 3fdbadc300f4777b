"""Marks where the scores of a series drift. Pure: sums and counts come in, marks go out.

Each occurrence is compared with all earlier ones since the last mark, by prompt and connection. The chance of
any false mark in the occurrences that are passed is at most `SIGNIFICANT`: see docs/statistics.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.batches.results.checks import SMALLEST_DRIFT
from doceval_pipeline.batches.results.score_drift import SHARE_PAIRED
from doceval_pipeline.domain.findings import SIGNIFICANT, Difference
from doceval_pipeline.reports.series import Drift
from doceval_pipeline.statistics.inference import corrected

Column = tuple[int, int]
Counts = NDArray[np.float64]
# Scores are counted by whole points, 0 to 100, so that a test knows how they are spread.
BINS = 101
# The tilt of the bound is searched up to this many per point; the bound holds for any tilt.
_STEEPEST, _HALVINGS = 8.0, 40
_POINTS = np.arange(BINS, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores by whole points: how many, and their exact sum."""

    counts: Counts
    total: float

    @property
    def n(self) -> int:
        """How many scores."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Their mean; there must be one."""
        return self.total / self.n

    def __add__(self, other: "Scored") -> "Scored":
        return Scored(self.counts + other.counts, self.total + other.total)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an occurrence says of a prompt and a connection; reused results are not in it.

    `question` tells a prompt text and a connection's settings from others. `asked` are all results, `new`
    those of documents that the series has not asked this question about before. The `pairs` other documents
    have an earlier score; `moved` is the sum of their differences, `moved_squared` that of their squares.
    """

    question: int
    asked: Scored
    new: Scored
    pairs: int = 0
    moved: float = 0.0
    moved_squared: float = 0.0


def mark_drift(
    occurrences: Sequence[Mapping[Column, Evidence]], places: Sequence[int]
) -> list[dict[Column, Drift]]:
    """Compare each occurrence with those before it.

    Parameters
    ----------
    occurrences
        Evidence by column, oldest first.
    places
        The number of each occurrence among all that ever made a batch, from 1: what it may spend of the
        chance of a false mark depends on it, and on nothing that a later occurrence or an archive changes.

    Returns
    -------
    list[dict[Column, Drift]]
        For each occurrence and column what was found, with p as it is for the whole series; columns that
        cannot be compared have a `Drift` without p.
    """
    levels: dict[Column, tuple[int, Scored]] = {}
    found = []
    for evidence, place in zip(occurrences, places, strict=True):
        drifts = _for_the_series({c: _compare(e, levels.get(c)) for c, e in evidence.items()}, place)
        for column, own in evidence.items():
            question, level = levels.get(column, (own.question, None))
            begins = level is None or question != own.question or drifts[column].is_marked
            levels[column] = own.question, own.asked if begins or level is None else level + own.new
        found.append(drifts)
    return found


def chance_of_samples(first: Scored, second: Scored) -> float:
    """At most how likely means of two samples are so far apart where chance alone deals out all scores.

    Notes
    -----
    The smaller sample is drawn from both without replacement. The moments of its sum are no larger than
    with replacement (Hoeffding 1963, theorem 4), for which Chernoff's bound holds for any number and shape of
    scores: 2 exp(-n sup_t (t x - log E exp(t X))). It never promises too much, as normal approximations
    do for few scores far from each other.
    """
    pooled = first.counts + second.counts
    sample = min(first, second, key=lambda scored: scored.n)
    reached = float(sample.counts @ _POINTS) / sample.n
    center = float(pooled @ _POINTS) / float(pooled.sum())
    if math.isclose(reached, center, abs_tol=1e-9):
        return 1.0
    seen = pooled > 0
    # Turned where the sample lies below, so that the tilt is positive.
    values = (_POINTS[seen] - center) * (1.0 if reached > center else -1.0)
    rate = _largest_rate(values, pooled[seen] / pooled.sum(), abs(reached - center))
    return min(1.0, 2 * math.exp(-sample.n * rate))


def chance_of_pairs(moved: float, moved_squared: float) -> float:
    """At most how likely differences sum up to so much if each is as likely up as down (Hoeffding 1963)."""
    return 1.0 if moved_squared <= 0 else min(1.0, 2 * math.exp(-(moved**2) / (2 * moved_squared)))


def _compare(own: Evidence, before: tuple[int, Scored] | None) -> Drift:
    """One occurrence with the level before, not corrected."""
    is_other = before is not None and before[0] != own.question
    if own.pairs and own.pairs >= SHARE_PAIRED * own.asked.n:
        p = chance_of_pairs(own.moved, own.moved_squared)
        return Drift(own.moved / own.pairs, p, own.pairs, own.pairs, True, is_other)
    if before is None or is_other or not own.new.n or not before[1].n:
        return Drift(None, None, own.new.n, 0, False, is_other)
    level = before[1]
    p = chance_of_samples(level, own.new)
    return Drift(own.new.mean - level.mean, p, own.new.n, level.n, False, False)


def _for_the_series(drifts: Mapping[Column, Drift], place: int) -> dict[Column, Drift]:
    """With p allowing for all columns (Holm) and for all occurrences that there ever will be.

    The occurrence of place k may spend 1 / ((k - 1) k) of the chance, which adds up to 1 from the second on.
    """
    together = corrected([Difference(d.now, d.change or 0.0, None, None, d.p, None) for d in drifts.values()])
    looks = max(1, (place - 1) * place)
    return {
        column: _marked(drift, None if one.p is None else min(1.0, one.p * looks))
        for (column, drift), one in zip(drifts.items(), together, strict=True)
    }


def _marked(drift: Drift, p: float | None) -> Drift:
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
