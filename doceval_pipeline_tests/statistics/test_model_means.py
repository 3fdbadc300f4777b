"""Models that scored different documents are ordered as if all had scored the same ones."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from doceval_pipeline.statistics.model_means import adjusted_means

SCORE = st.integers(0, 20).map(lambda step: 5.0 * step) | st.just(float("nan"))
TABLES = st.tuples(st.integers(1, 8), st.integers(1, 5)).flatmap(
    lambda shape: arrays.arrays(np.float64, shape, elements=SCORE)
)


def test_a_model_that_failed_on_the_hard_documents_does_not_lead_by_that() -> None:
    nan = float("nan")
    scores = np.array([[90, 88], [92, 90], [40, nan], [30, nan]])
    assert np.nanmean(scores, axis=0).argmax() == 1
    assert adjusted_means(scores) == pytest.approx([63, 61])


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float64, (6, 4), elements=st.integers(0, 100).map(float)))
def test_complete_scores_have_their_plain_means(scores: Any) -> None:
    assert adjusted_means(scores) == pytest.approx(scores.mean(axis=0), abs=1e-6)


def _linked(scores: Any) -> bool:
    """Whether all models are linked through documents in common."""
    scored = ~np.isnan(scores)
    shared = (scored.T.astype(int) @ scored.astype(int)) > 0
    reach = np.linalg.matrix_power(shared.astype(int) + np.eye(len(shared), dtype=int), len(shared))
    return bool((reach > 0).all())


@settings(max_examples=100, deadline=None)
@given(TABLES, st.integers(-300, 300), st.randoms(use_true_random=False))
def test_an_easier_document_never_changes_the_order_of_linked_models(
    scores: Any, shift: int, random: Any
) -> None:
    assume(_linked(scores))
    before = adjusted_means(scores)
    moved = scores.copy()
    moved[random.randrange(len(moved))] += shift
    after = adjusted_means(moved)
    assert after - after[0] == pytest.approx(before - before[0], abs=1e-6, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float64, (7, 2), elements=SCORE))
def test_two_models_differ_by_their_mean_paired_difference(scores: Any) -> None:
    pairs = scores[:, 1] - scores[:, 0]
    assume(not np.isnan(pairs).all())
    first, second = adjusted_means(scores)
    assert second - first == pytest.approx(np.nanmean(pairs), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(TABLES)
def test_adjusted_means_are_those_of_a_least_squares_fit(scores: Any) -> None:
    assume(_linked(scores))
    scores = scores[~np.isnan(scores).all(axis=1)]
    assume(scores.size)
    documents, models = scores.shape
    rows, columns = np.nonzero(~np.isnan(scores))
    design = np.zeros((rows.size, documents + models))
    design[np.arange(rows.size), rows] = 1
    design[np.arange(rows.size), documents + columns] = 1
    fit = np.linalg.lstsq(design, scores[rows, columns], rcond=None)[0]
    expected = fit[documents:] + fit[:documents].mean()
    assert adjusted_means(scores) == pytest.approx(expected, abs=1e-6)


def test_models_without_common_documents_have_their_plain_means() -> None:
    nan = float("nan")
    assert adjusted_means([[80, nan, nan], [60, nan, nan], [nan, 50, nan]]) == pytest.approx(
        [70, 50, nan], nan_ok=True
    )
    assert adjusted_means(np.full((0, 2), nan)) == pytest.approx([nan, nan], nan_ok=True)


def test_models_are_compared_through_a_third_one() -> None:
    nan = float("nan")
    # The second is 10 below the first, the third 10 below the second, on harder documents each.
    found = adjusted_means([[90, 80, nan], [nan, 50, 40], [nan, 30, 20]])
    assert np.diff(found) == pytest.approx([-10, -10])


def test_a_hundred_thousand_documents_and_fifty_models_take_seconds() -> None:
    random = np.random.default_rng(1)
    scores = random.normal(60, 10, (100_000, 1)) + random.normal(0, 5, (100_000, 50)) + np.arange(50) / 10
    scores[random.random(scores.shape) < 0.3] = np.nan
    started = time.process_time()
    found = adjusted_means(scores)
    assert time.process_time() - started < 20
    assert np.diff(found) == pytest.approx(np.full(49, 0.1), abs=0.15)
