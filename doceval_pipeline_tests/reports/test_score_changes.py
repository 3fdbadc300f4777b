"""Score changes match a plain loop, and the largest ones are named."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doceval_pipeline.domain.score_changes import ScoreShift
from doceval_pipeline.reports.score_changes import FLIPS_SHOWN, THRESHOLD, compare_scores, largest_changes

NAN = math.nan
SCORES = st.sampled_from([NAN, 0.0, 30.0, 49.9, 50.0, 70.1, 100.0])


def name_of(document: int) -> str:
    return f"document {document}"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(SCORES, SCORES), max_size=40), st.sampled_from([0.0, 50.0, 70.1, 100.0]))
def test_documents_are_counted_as_by_a_plain_loop(pairs: list[tuple[float, float]], threshold: float) -> None:
    documents = np.arange(len(pairs)) + 7
    first, second = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    found = compare_scores(name_of, documents, first, second, threshold)
    both = [(a, b) for a, b in pairs if not math.isnan(a) and not math.isnan(b)]
    if not both:
        assert found is None
        return
    assert found is not None
    assert found.difference.n == len(both) == found.rose + found.fell + found.same
    assert (found.rose, found.fell) == (sum(b > a for a, b in both), sum(b < a for a, b in both))
    assert found.net == pytest.approx(sum(b - a for a, b in both) / len(both))
    assert found.gross == pytest.approx(sum(abs(b - a) for a, b in both) / len(both))
    assert found.flipped_up == sum(a < threshold <= b for a, b in both)
    assert found.flipped_down == sum(b < threshold <= a for a, b in both)
    assert found.only_first == sum(not math.isnan(a) and math.isnan(b) for a, b in pairs)
    assert found.only_second == sum(math.isnan(a) and not math.isnan(b) for a, b in pairs)
    largest = sorted(
        (
            (-abs(b - a), document, a, b)
            for document, (a, b) in zip(documents, pairs, strict=True)
            if a < b or b < a
        )
    )[:FLIPS_SHOWN]
    assert found.flips == tuple(ScoreShift(name_of(document), a, b) for _, document, a, b in largest)
    assert largest_changes(documents, first, second) == [document for _, document, _, _ in largest]


def test_a_rounding_difference_is_not_a_change() -> None:
    found = compare_scores(name_of, np.array([1]), np.array([0.1 + 0.2]), np.array([0.3]), THRESHOLD)
    assert found is not None
    assert (found.rose, found.fell, found.same, found.flips) == (0, 0, 1, ())


def test_only_listed_documents_are_named() -> None:
    asked: list[int] = []

    def named(document: int) -> str:
        asked.append(document)
        return str(document)

    n = 5_000
    first, second = np.zeros(n), np.arange(n) * 100.0 / n
    compare_scores(named, np.arange(n), first, second, THRESHOLD)
    assert asked == list(range(n - 1, n - 1 - FLIPS_SHOWN, -1))
