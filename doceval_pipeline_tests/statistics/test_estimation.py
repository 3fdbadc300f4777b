"""Prediction intervals have their nominal coverage, and too little experience gives none."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.domain.usage import Experience
from doceval_pipeline.statistics.estimation import CONFIDENCE, predict_time, predict_total


def experience(x: "np.ndarray", y: "np.ndarray") -> Experience:
    return Experience(
        len(x),
        float(x.sum()),
        float((x**2).sum()),
        float(y.sum()),
        float((y**2).sum()),
        float((x * y).sum()),
        float(y.max()),
    )


@pytest.mark.parametrize("sizes", ["one size", "many sizes", "larger than any before"])
def test_the_interval_of_a_total_has_its_nominal_coverage(sizes: str) -> None:
    random = np.random.default_rng(7)
    inside = 0
    for _ in range(2_000):
        x = np.full(20, 5e4) if sizes == "one size" else random.uniform(1e3, 1e5, 20)
        to_come = np.full(30, 5e4) if sizes == "one size" else random.uniform(1e3, 1e5, 30)
        if sizes == "larger than any before":
            to_come = to_come + 1e5
        y, coming = (300 + 0.25 * s + random.normal(0, 200, len(s)) for s in (x, to_come))
        found = predict_total(experience(x, y), len(to_come), float(to_come.sum()))
        assert found is not None
        inside += found.low <= coming.sum() <= found.high
    assert abs(inside / 2_000 - CONFIDENCE) < 0.02


def test_the_interval_of_the_time_left_has_its_nominal_coverage() -> None:
    random = np.random.default_rng(7)
    inside = 0
    for _ in range(2_000):
        gaps = random.exponential(3.0, 120)
        found = predict_time(40, float(gaps[:40].sum()), 80)
        assert found is not None
        inside += found.low <= gaps[40:].sum() <= found.high
    assert abs(inside / 2_000 - CONFIDENCE) < 0.02


def test_too_little_experience_gives_no_prediction() -> None:
    assert predict_total(Experience(2, 2, 2, 2, 2, 2, 1), 10, 10) is None
    assert predict_time(0, 100, 5) is None
    assert predict_time(5, 0, 5) is None


def test_a_single_event_has_no_upper_bound() -> None:
    found = predict_time(1, 60, 1_000, dispersion=1e6)
    assert found is not None
    assert found.expected == 60_000
    assert found.high > 10 * found.expected


@given(
    st.lists(st.tuples(st.floats(1, 1e8), st.floats(0, 1e7)), min_size=3, max_size=30),
    st.integers(0, 10_000),
    st.floats(0, 1e12),
)
def test_an_interval_contains_the_expected_value_and_is_never_negative(
    cells: list[tuple[float, float]], coming: int, together: float
) -> None:
    x, y = (np.array(column) for column in zip(*cells, strict=True))
    found = predict_total(experience(x, y), coming, together)
    assert found is not None
    assert 0 <= found.low <= found.expected <= found.high
    assert all(map(math.isfinite, (found.low, found.expected, found.high)))


def test_equal_measurements_give_an_interval_without_width() -> None:
    found = predict_total(experience(np.full(10, 100.0), np.full(10, 7.0)), 6, 600)
    assert found is not None
    assert (found.low, found.expected, found.high) == (42, 42, 42)
