"""Documents below a threshold: which, by which models, and which scores are near it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.domain.criteria import Criterion
from doceval_pipeline.reports.thresholds import (
    DOCUMENTS_SHOWN,
    NEAR_SHOWN,
    below_thresholds,
    near_evaluations,
    with_names,
)

NAN = float("nan")
COLUMNS = [(1, 1), (2, 1), (1, 2)]


def test_documents_are_listed_with_the_scores_of_all_models() -> None:
    values = np.array([[59.9, 80.0, 10.0], [60.0, NAN, 10.0], [20.0, 30.0, 10.0], [NAN, NAN, 10.0]])
    (below,) = below_thresholds(np.arange(1, 5), COLUMNS, values, {1: Criterion(60.0), 3: Criterion(60.0)})
    assert (below.prompt_id, below.documents, below.scored) == (1, 2, 3)
    assert below.by_connection == ((1, 2), (2, 1))
    assert [(low.document_id, low.scores) for low in below.lowest] == [
        (3, ((1, 20.0), (2, 30.0))),
        (1, ((1, 59.9), (2, 80.0))),
    ]


def test_a_threshold_of_0_lists_nothing_and_one_of_100_everything_but_perfect_scores() -> None:
    values = np.array([[0.0], [50.0], [100.0]])
    documents = np.arange(3)
    for threshold, expected in ((0.0, []), (100.0, [0, 1])):
        (below,) = below_thresholds(documents, [(1, 1)], values, {1: Criterion(threshold)})
        assert [low.document_id for low in below.lowest] == expected


def test_a_prompt_without_a_threshold_or_a_score_has_no_list() -> None:
    values = np.array([[NAN, NAN, 10.0]])
    assert below_thresholds(np.arange(1), COLUMNS, values, {1: Criterion(60.0), 2: Criterion()}) == []


def test_a_score_near_the_threshold_has_the_interval_of_its_attempts() -> None:
    values = np.array([[62.0], [55.0], [54.9], [90.0]])
    below = below_thresholds(np.arange(1, 5), [(1, 1)], values, {1: Criterion(60.0)})
    assert near_evaluations(below) == [(1, 1, 1), (2, 1, 1)]
    (named,) = with_names(below, str, {(1, 1, 1): [58.0, 62.0, 66.0], (2, 1, 1): [55.0]})
    first, second = named.near
    assert first.repeated is not None
    assert (first.document, first.repeated.n, first.repeated.mean) == ("1", 3, 62.0)
    assert second.repeated is None, "one attempt shows no spread"
    assert [low.document for low in named.lowest] == ["3", "2"]


@given(st.lists(st.lists(st.one_of(st.just(NAN), st.integers(0, 100).map(float)), min_size=3, max_size=3)))
def test_counts_are_those_of_a_plain_count(rows: list[list[float]]) -> None:
    values = np.array(rows).reshape(len(rows), 3)
    criteria = {1: Criterion(60.0), 2: Criterion(20.0)}
    for below in below_thresholds(np.arange(len(rows)), COLUMNS, values, criteria):
        places = [place for place, column in enumerate(COLUMNS) if column[1] == below.prompt_id]
        low = [[place for place in places if row[place] < below.threshold] for row in rows]
        assert below.documents == sum(map(bool, low))
        assert below.by_connection == tuple((COLUMNS[p][0], sum(p in each for each in low)) for p in places)
        assert len(below.lowest) == min(DOCUMENTS_SHOWN, below.documents)
        near = sum(abs(row[place] - below.threshold) <= 5 for row in rows for place in places)
        assert (below.all_near, len(below.near)) == (near, min(NEAR_SHOWN, near))
