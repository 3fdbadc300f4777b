"""Differences that are computed from sums equal those from the pairs themselves."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from doceval_pipeline.statistics.inference import difference_of_sums

PAIRS = st.lists(st.integers(-100, 100), min_size=2, max_size=60).filter(lambda pairs: len(set(pairs)) > 1)


def sums_of(pairs: list[int], clusters: list[int]) -> tuple[int, float, int, float]:
    values, mean = np.asarray(pairs, dtype=float), math.fsum(pairs) / len(pairs)
    distances = [float(np.sum(values[np.asarray(clusters) == each] - mean)) for each in set(clusters)]
    return len(pairs), mean, len(distances), math.fsum(distance**2 for distance in distances)


@given(PAIRS)
def test_independent_pairs_have_students_interval_and_the_p_of_the_t_test(pairs: list[int]) -> None:
    found = difference_of_sums(*sums_of(pairs, list(range(len(pairs)))))
    test = ttest_1samp(pairs, 0)
    low, high = test.confidence_interval()
    assert found.n == len(pairs)
    assert (found.low, found.high) == pytest.approx((max(-100, low), min(100, high)), abs=1e-9)
    assert found.p == pytest.approx(float(test.pvalue), abs=1e-9)


@given(PAIRS, st.integers(2, 5))
def test_repeated_pairs_of_one_cluster_are_no_further_evidence(pairs: list[int], times: int) -> None:
    once = difference_of_sums(*sums_of(pairs, list(range(len(pairs)))))
    repeated = difference_of_sums(*sums_of(pairs * times, list(range(len(pairs))) * times))
    assert repeated.n == times * once.n
    assert (repeated.mean, repeated.low, repeated.high, repeated.p) == pytest.approx(
        (once.mean, once.low, once.high, once.p)
    )


@pytest.mark.parametrize(
    ("mean", "clusters", "p"), [(0.0, 9, 1.0), (2.0, 9, 2**-8), (-2.0, 2, 0.5), (2.0, 1, None)]
)
def test_equal_differences_have_no_interval_and_the_p_of_their_signs(
    mean: float, clusters: int, p: float | None
) -> None:
    found = difference_of_sums(12, mean, clusters, 0.0)
    assert (found.n, found.mean, found.low, found.high, found.p) == (12, mean, None, None, p)
