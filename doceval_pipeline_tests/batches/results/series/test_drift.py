"""Drift in a series: what is marked, what never is, and how often a mark is false."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from doceval_pipeline.batches.results.series.drift import (
    BINS,
    Evidence,
    ScoreHistogram,
    chance_of_pairs,
    chance_of_samples,
    mark_drift,
)

COLUMN = (1, 1)


def scored(scores: Sequence[float] | NDArray[np.float64]) -> ScoreHistogram:
    found = np.asarray(scores, dtype=np.float64)
    return ScoreHistogram(
        np.bincount(np.round(found).astype(int), minlength=BINS).astype(float), float(found.sum())
    )


def of_new(scores: Sequence[float] | NDArray[np.float64], question: int = 1) -> Evidence:
    """An occurrence whose documents are all new."""
    return Evidence(question, scored(scores), scored(scores))


def of_old(before: Sequence[float], now: Sequence[float]) -> Evidence:
    """An occurrence whose documents were all scored before."""
    moves = np.subtract(now, before)
    return Evidence(1, scored(now), scored([]), len(now), float(moves.sum()), float((moves**2).sum()))


def marks(series: Sequence[Evidence]) -> list[bool]:
    found = mark_drift([{COLUMN: one} for one in series], range(1, len(series) + 1))
    return [one[COLUMN].is_marked for one in found]


def test_a_new_level_is_marked_once_where_it_begins() -> None:
    draw = np.random.default_rng(1)
    nights = [of_new(draw.normal(70, 10, 60).clip(0, 100)) for _ in range(8)]
    nights += [of_new(draw.normal(50, 10, 60).clip(0, 100)) for _ in range(8)]
    assert [place for place, is_marked in enumerate(marks(nights)) if is_marked] == [8]


def test_documents_that_were_scored_before_are_compared_with_themselves() -> None:
    draw = np.random.default_rng(2)
    before = draw.uniform(0, 100, 40)
    # So far apart as these documents are, 5 points are seen only in each of them.
    moved = (before + 5).clip(0, 100)
    found = mark_drift([{COLUMN: of_new(before)}, {COLUMN: of_old(before, moved)}], [1, 2])[1][COLUMN]
    assert (found.is_paired, found.is_marked, found.now) == (True, True, 40)
    assert not marks([of_new(before), of_new(moved)])[1]


def test_another_question_begins_a_new_level_without_drift() -> None:
    found = mark_drift([{COLUMN: of_new([90] * 50, 1)}, {COLUMN: of_new([10] * 50, 2)}], [1, 2])
    assert found[1][COLUMN].is_other_question
    assert (found[1][COLUMN].p, found[1][COLUMN].is_marked) == (None, False)
    assert marks([of_new([90] * 50, 1), of_new([10] * 50, 2), of_new([10] * 50, 2)]) == [False] * 3


def test_a_significant_change_of_less_than_a_point_is_not_marked() -> None:
    assert marks([of_new([70.4] * 5000), of_new([70.6] * 5000)]) == [False, False]


@pytest.mark.parametrize("series", [[], [of_new([])], [of_new([]), of_new([50])], [of_new([0]), of_new([0])]])
def test_too_little_to_compare_is_no_drift(series: list[Evidence]) -> None:
    assert not any(marks(series))


def test_a_mark_stays_however_many_occurrences_follow() -> None:
    draw = np.random.default_rng(3)
    nights = [of_new(draw.normal(60 - 6 * (n // 5), 8, 40).clip(0, 100)) for n in range(30)]
    for many in (6, 11, 30):
        assert marks(nights[:many]) == marks(nights)[:many]


@pytest.mark.parametrize(("first", "second"), [([0] * 6, [100] * 4), ([0, 0, 0, 100], [100, 0, 100])])
def test_the_bound_is_never_below_the_exact_chance(first: list[float], second: list[float]) -> None:
    pooled, n = [*first, *second], len(second)
    apart = abs(np.mean(second) - np.mean(pooled))
    ways = [abs(np.mean(way) - np.mean(pooled)) >= apart for way in itertools.combinations(pooled, n)]
    assert chance_of_samples(scored(first), scored(second)) >= np.mean(ways)


def test_the_bound_of_pairs_is_never_below_the_exact_chance() -> None:
    moves = np.array([3.0, 5.0, 8.0, 1.0, 9.0, 2.0, 2.0, 7.0])
    sums = [abs(np.dot(signs, moves)) >= moves.sum() for signs in itertools.product((-1, 1), repeat=8)]
    assert chance_of_pairs(moves.sum(), float((moves**2).sum())) >= np.mean(sums)


def test_in_a_whole_series_without_drift_a_mark_is_as_rare_as_promised() -> None:
    # Few scores, most of them near 100 and one in ten far below: where approximations promise too much.
    draw = np.random.default_rng(20_261_201)
    false = 0
    for _ in range(60):
        sizes = draw.integers(3, 30, 15)
        nights = [of_new(np.where(draw.random(n) < 0.1, 10.0, 95.0)) for n in sizes]
        false += any(marks(nights))
    assert false <= 0.05 * 60


def test_the_shares_of_all_occurrences_and_columns_add_up_to_the_promised_chance() -> None:
    before, now = list(range(0, 60, 2)), [score + 1.5 for score in range(0, 60, 2)]
    first, second = of_new(before), of_old(before, now)

    def p(place: int, columns: int) -> float:
        pairs = [{(1, c): one for c in range(columns)} for one in (first, second)]
        found = mark_drift(pairs, [place - 1, place])[1][1, 0].p
        assert found is not None
        return found

    alone = chance_of_pairs(second.moved, second.moved_squared)
    assert [p(place, 1) / alone for place in (2, 3, 10)] == [pytest.approx(share) for share in (2, 6, 90)]
    assert p(3, 4) / alone == pytest.approx(24)
