"""Copies, versions and several prompts on a document do not make an interval narrower than it is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doceval_pipeline.domain.findings import Difference
from doceval_pipeline.statistics import inference
from doceval_pipeline.statistics.inference import clustered_estimate, difference, estimate
from doceval_pipeline.statistics.margins import margin_test

Random = np.random.Generator

# The documents of each cluster, or the prompts on each document.
SIZES: dict[str, Callable[[Random, int], Any]] = {
    "three prompts each": lambda _random, clusters: np.full(clusters, 3),
    "1 to 6": lambda random, clusters: random.integers(1, 7, clusters),
    "most alone": lambda random, clusters: np.where(
        random.random(clusters) < 0.85, 1, random.integers(2, 9, clusters)
    ),
    "many copies of some": lambda random, clusters: random.geometric(0.3, clusters),
}
CORRELATIONS = (0.3, 0.6, 0.9)
TRUE = 4.0


def draw(random: Random, sizes: Any, correlation: float) -> tuple[Any, Any]:
    """Values with the true mean `TRUE`, correlated within clusters; and the cluster of each."""
    clusters = np.repeat(np.arange(sizes.size), sizes)
    shared = random.normal(0, 12 * correlation**0.5, sizes.size)[clusters]
    return TRUE + shared + random.normal(0, 12 * (1 - correlation) ** 0.5, clusters.size), clusters


def covered(name: str, count: int, correlation: float, times: int, *, clustered: bool = True) -> float:
    """The share of intervals of a mean difference that contain the true one."""
    random, inside = np.random.default_rng(count), 0
    for _ in range(times):
        values, clusters = draw(random, SIZES[name](random, count), correlation)
        zeros = np.zeros(values.size)
        found = difference(zeros, values, resample=False, clusters=clusters if clustered else None)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= TRUE <= found.high
    return inside / times


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("count", [20, 200])
def test_an_interval_over_clusters_holds_about_as_often_as_it_says(name: str, count: int) -> None:
    assert covered(name, count, 0.6, 500) == pytest.approx(0.95, abs=0.03)


@pytest.mark.slow
@pytest.mark.simulations
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("count", [20, 50, 200])
def test_an_interval_over_clusters_holds_in_94_to_96_of_100(
    name: str, correlation: float, count: int
) -> None:
    # 10,000 intervals measure 95 % to within 0.5.
    assert 0.9375 <= covered(name, count, correlation, 10_000) <= 0.9625


@pytest.mark.parametrize("name", SIZES)
def test_an_interval_that_ignores_clusters_holds_far_less_often(name: str) -> None:
    assert covered(name, 50, 0.9, 500, clustered=False) < 0.85


@pytest.mark.slow
@pytest.mark.simulations
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("count", [20, 50])
def test_a_resampled_interval_over_clusters_is_only_a_little_wider(name: str, count: int) -> None:
    random, times, inside = np.random.default_rng(count), 500, 0
    for _ in range(times):
        values, clusters = draw(random, SIZES[name](random, count), 0.6)
        found = difference(np.zeros(values.size), values, clusters=clusters)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= TRUE <= found.high
    assert 0.925 <= inside / times <= 0.98


@pytest.mark.parametrize("correlation", [0.3, 0.9])
@pytest.mark.parametrize("name", ["1 to 6", "many copies of some"])
def test_equal_models_are_told_apart_over_clusters_as_seldom_as_promised(
    name: str, correlation: float
) -> None:
    random, times, every, wrong, ignored = np.random.default_rng(8), 800, 4, 0, 0
    for time in range(times):
        values, clusters = draw(random, SIZES[name](random, 20), correlation)
        moves = 5 * np.round((values - TRUE) / 5)
        wrong += shown(moves, clusters)
        ignored += time % every == 0 and shown(moves, None)
    assert wrong / times <= 0.07
    assert ignored / times * every > 0.1


def shown(moves: Any, clusters: Any) -> bool:
    found = difference(np.zeros(moves.size), moves, resample=False, clusters=clusters)
    assert found is not None
    assert found.p is not None
    return found.p < 0.05


@pytest.mark.parametrize("sizes", [[3, 2, 1, 2], [1, 1, 1, 9], [4, 4, 4]])
def test_the_variance_over_clusters_matches_its_definition_with_matrices(sizes: list[int]) -> None:
    """The deviations' covariance under the assumed correlation, from the matrix that takes the mean off."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    values = np.random.default_rng(2).normal(50, 10, clusters.size)
    n = clusters.size
    own = clusters[:, None] == clusters[None, :]
    working = np.where(own, 0.1, 0.0) + 0.9 * np.eye(n)
    off = np.eye(n) - 1 / n
    add = (np.arange(len(sizes))[:, None] == clusters[None, :]).astype(float)
    expected = add @ off @ working @ off.T @ add.T
    variances = np.diag(add @ working @ add.T)
    factors = variances / np.diag(expected)
    deviations = add @ (values - values.mean())
    error = (factors @ deviations**2) ** 0.5 / n
    scaled = expected * np.sqrt(factors[:, None] * factors[None, :])
    freedom = np.trace(scaled) ** 2 / (scaled**2).sum()
    found = clustered_estimate(values, clusters)
    assert found is not None
    assert found.low is not None
    assert found.mean - found.low == pytest.approx(inference._quantile(0.975, freedom) * error)


SCORES = st.integers(0, 20).map(lambda step: 5.0 * step)
ROWS = st.lists(st.tuples(SCORES, SCORES, st.integers(0, 6)), min_size=1, max_size=30)


@settings(max_examples=25, deadline=None)
@given(ROWS)
def test_clusters_of_one_change_nothing(rows: list[tuple[float, float, int]]) -> None:
    first, second, _ = zip(*rows, strict=True)
    alone = [9 * place for place in range(len(rows))]
    assert difference(first, second, clusters=alone) == difference(first, second)
    assert margin_test(first, second, 3, clusters=alone) == margin_test(first, second, 3)


@settings(max_examples=25, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_neither_the_order_nor_the_numbers_of_clusters_matter(
    rows: list[tuple[float, float, int]], random: Any
) -> None:
    shuffled = [(a, b, 50 - c) for a, b, c in random.sample(rows, len(rows))]
    one, other = (list(zip(*each, strict=True)) for each in (rows, shuffled))
    assert difference(one[0], one[1], clusters=one[2]) == difference(other[0], other[1], clusters=other[2])
    found, again = (margin_test(each[0], each[1], 5, clusters=each[2]) for each in (one, other))
    assert found == again


@settings(max_examples=25, deadline=None)
@given(ROWS)
def test_swapping_the_sides_of_clustered_pairs_only_changes_the_signs(
    rows: list[tuple[float, float, int]],
) -> None:
    first, second, clusters = zip(*rows, strict=True)
    one, other = (difference(*sides, clusters=clusters) for sides in ((first, second), (second, first)))
    assert one is not None
    assert other is not None
    assert (one.n, one.mean, one.p, one.detectable) == (other.n, -other.mean, other.p, other.detectable)
    assert one.n == len(rows)
    assert one.mean == pytest.approx(np.mean(np.subtract(second, first)), abs=1e-9)
    if one.low is not None and one.high is not None:
        assert (other.high, other.low) == (-one.low, -one.high)
        assert one.low <= one.mean <= one.high


@settings(max_examples=40, deadline=None)
@given(st.lists(SCORES, min_size=2, max_size=20), st.integers(2, 5))
def test_copies_of_every_document_are_no_further_evidence(scores: list[float], times: int) -> None:
    zeros = [50.0] * len(scores)
    once = difference(zeros, scores, resample=False)
    again = difference(
        zeros * times, scores * times, resample=False, clusters=list(range(len(scores))) * times
    )
    assert once is not None
    assert again is not None
    assert again.n == times * once.n
    for name in ("mean", "low", "high", "p", "detectable"):
        one, other = getattr(once, name), getattr(again, name)
        assert other == (None if one is None else pytest.approx(one, abs=1e-6))
    alone = margin_test(zeros, scores, 5)
    copied = margin_test(zeros * times, scores * times, 5, clusters=list(range(len(scores))) * times)
    assert (copied.p_no_worse, copied.p_worse) == pytest.approx((alone.p_no_worse, alone.p_worse), abs=1e-6)


def test_a_single_cluster_has_a_difference_and_nothing_else() -> None:
    found = difference([10, 20, 30], [20, 10, 50], clusters=[4, 4, 4])
    assert found is not None
    assert found == Difference(3, found.mean, None, None, None, None)
    assert found.mean == pytest.approx(20 / 3)


def test_no_pairs_have_no_difference_over_clusters() -> None:
    assert difference([], [], clusters=[]) is None


def test_a_mean_over_single_scores_is_the_usual_one() -> None:
    assert clustered_estimate([10, 30, 70], [3, 1, 2]) == estimate([10, 30, 70])
