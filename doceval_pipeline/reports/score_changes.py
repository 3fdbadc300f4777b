"""Compares the scores of two columns: which documents score higher and lower, and which differ most.

Scores rise and fall only between times. Between two models or prompts they are higher or lower: `words_of`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from doceval_pipeline.domain.score_changes import THRESHOLD, Dimension, ScoreChanges, ScoreShift
from doceval_pipeline.reports.formatting import score_text
from doceval_pipeline.statistics.inference import difference

FLIPS_SHOWN = 20

Values = NDArray[np.float64]
Clusters = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ChangeWords:
    """The words for scores that differ between two sides."""

    higher: str
    """Counts documents with a higher score on the second side; `lower` those with a lower one."""
    lower: str
    difference: str
    """Second minus first."""


_BETWEEN_SIDES = ChangeWords("higher", "lower", "difference")
_BETWEEN_TIMES = ChangeWords("rose", "fell", "change")


def words_of(dimension: Dimension) -> ChangeWords:
    """The words for scores that differ in a dimension: only between times do they change."""
    return _BETWEEN_TIMES if dimension is Dimension.TIME else _BETWEEN_SIDES


def counts_text(changes: ScoreChanges, dimension: Dimension) -> str:
    """On how many documents the second side scores higher and lower, or rose and fell."""
    words = words_of(dimension)
    return f"{words.higher} on {changes.rose:,}, {words.lower} on {changes.fell:,}, same on {changes.same:,}"


def crossings_text(changes: ScoreChanges, dimension: Dimension, first: str, second: str) -> str:
    """How many documents reach the threshold on one side only, or crossed it; names are unchanged."""
    threshold = score_text(changes.threshold)
    if dimension is Dimension.TIME:
        return f"crossed {threshold}: {changes.flipped_up:,} upwards, {changes.flipped_down:,} downwards"
    return (
        f"at or above {threshold} by {first} only: {changes.flipped_down:,}, "
        f"by {second} only: {changes.flipped_up:,}"
    )


def compare_scores(
    name_of: Callable[[int], str],
    documents: NDArray[np.int64],
    first: Values,
    second: Values,
    threshold: float = THRESHOLD,
    *,
    clusters: Clusters | None = None,
    resample: bool = True,
) -> ScoreChanges | None:
    """How the scores of documents differ from `first` to `second`.

    Parameters
    ----------
    name_of
        Returns a document's name; called only for documents in `largest_changes`.
    documents, first, second
        Ids of documents, and their scores on both sides by position; NaN where there is none.
    threshold
        A score at or above it is good; a document that is good on one side only has flipped.
    clusters
        The cluster of each document, by position; None if each is a cluster of its own.
    resample
        As in `difference`.

    Returns
    -------
    ScoreChanges | None
        None if no document has both scores. The p of its difference is not corrected.
    """
    has_first, has_second = ~np.isnan(first), ~np.isnan(second)
    both = has_first & has_second
    before, after = first[both], second[both]
    overall = difference(
        before, after, clusters=None if clusters is None else clusters[both], resample=resample
    )
    if overall is None:
        return None
    changes = _rounded(after - before)
    was_good, is_good = before >= threshold, after >= threshold
    return ScoreChanges(
        difference=overall,
        rose=int(np.count_nonzero(changes > 0)),
        fell=int(np.count_nonzero(changes < 0)),
        same=int(np.count_nonzero(changes == 0)),
        net=overall.mean,
        gross=float(np.abs(changes).mean()),
        threshold=threshold,
        flipped_up=int(np.count_nonzero(~was_good & is_good)),
        flipped_down=int(np.count_nonzero(was_good & ~is_good)),
        flips=_shifts(name_of, documents[both], before, after),
        only_first=int(np.count_nonzero(has_first & ~has_second)),
        only_second=int(np.count_nonzero(~has_first & has_second)),
    )


def largest_changes(documents: NDArray[np.int64], first: Values, second: Values) -> list[int]:
    """The documents that `compare_scores` names, so that their names can be read beforehand, all at once."""
    both = ~(np.isnan(first) | np.isnan(second))
    ids = documents[both]
    return [int(ids[place]) for place in _largest(ids, _rounded(second[both] - first[both]))]


def _shifts(
    name_of: Callable[[int], str], documents: NDArray[np.int64], before: Values, after: Values
) -> tuple[ScoreShift, ...]:
    return tuple(
        ScoreShift(name_of(int(documents[place])), float(before[place]), float(after[place]))
        for place in _largest(documents, _rounded(after - before))
    )


def _rounded(changes: Values) -> Values:
    # 70.1 and 70.10000000000001 are the same score.
    rounded: Values = np.round(changes, 9)
    return rounded


def _largest(documents: NDArray[np.int64], changes: Values) -> list[int]:
    """Positions of the largest differences, at most `FLIPS_SHOWN`; of equal ones the lowest document ids."""
    order = np.lexsort((documents, -np.abs(changes)))[:FLIPS_SHOWN]
    return [int(place) for place in order if changes[place] != 0]
