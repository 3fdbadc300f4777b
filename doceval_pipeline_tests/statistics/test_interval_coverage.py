"""Intervals hold as often as they say, and tests err as seldom: by simulation of scores as they come."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from doceval_pipeline.statistics import inference
from doceval_pipeline.statistics.inference import BOOTSTRAP_TO, clustered_estimate, difference, estimate

Pairs = tuple[Any, Any]

# What docs/statistics.md says of each world: the percentage of intervals that hold the true mean difference,
# by the number of documents. Of ten documents, of which few fall far, hardly any interval can know of it.
SHORT, LONG = 250, 1_000
MEASURED: dict[str, dict[int, float]] = {
    "models that agree roughly": {10: 95, 30: 94, 100: 96, 400: 95, 2_000: 95},
    "most documents stay as they were": {10: 88, 30: 96, 100: 95, 400: 95, 2_000: 96},
    "a few documents fall far": {10: 52, 30: 85, 100: 95, 400: 96, 2_000: 96},
}


def _steps(scores: Any) -> Any:
    """Scores as models give them: in steps of five."""
    return np.clip(np.round(scores / 5) * 5, 0, 100)


def _agree(random: np.random.Generator, n: int) -> Pairs:
    quality = random.normal(60, 15, n)
    return _steps(quality + random.normal(0, 10, n)), _steps(quality + 2 + random.normal(0, 10, n))


def _stay(random: np.random.Generator, n: int) -> Pairs:
    first = _steps(random.normal(70, 15, n))
    return first, np.where(random.random(n) < 0.7, first, _steps(first + random.normal(4, 12, n)))


def _fall(random: np.random.Generator, n: int) -> Pairs:
    first = _steps(random.normal(96, 8, n))
    return first, np.where(random.random(n) < 0.1, _steps(first - random.exponential(40, n)), first)


WORLDS: dict[str, Callable[[np.random.Generator, int], Pairs]] = dict(
    zip(MEASURED, (_agree, _stay, _fall), strict=True)
)


@cache
def true_mean(name: str) -> float:
    first, second = WORLDS[name](np.random.default_rng(99), 2_000_000)
    return float((second - first).mean())


def covered(name: str, n: int, times: int) -> float:
    """The share of intervals that hold the true mean; where there is none, because all documents differ by as
    much, it does not count as held."""
    random, true, inside = np.random.default_rng(n), true_mean(name), 0
    for _ in range(times):
        found = difference(*WORLDS[name](random, n))
        assert found is not None
        inside += found.low is not None and found.high is not None and found.low <= true <= found.high
    return inside / times


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("models that agree roughly", 10),
        ("models that agree roughly", 30),
        ("most documents stay as they were", 30),
        ("a few documents fall far", 100),
        ("a few documents fall far", 2_000),
    ],
)
def test_an_interval_of_a_difference_holds_about_as_often_as_it_says(name: str, n: int) -> None:
    assert covered(name, n, SHORT) == pytest.approx(MEASURED[name][n] / 100, abs=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("n", [10, 30, 100, 400, 2_000])
def test_an_interval_of_a_difference_holds_as_often_as_the_documentation_says(name: str, n: int) -> None:
    # Four hundred are resampled, which takes a minute for a thousand times.
    times, near = (300, 0.035) if n == 400 else (LONG, 0.02)
    assert covered(name, n, times) == pytest.approx(MEASURED[name][n] / 100, abs=near)


@pytest.mark.parametrize("name", MEASURED)
def test_many_pairs_have_the_same_interval_by_bootstrap_and_by_t(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = WORLDS[name](np.random.default_rng(8), BOOTSTRAP_TO + 1)
    student = difference(*pairs)
    monkeypatch.setattr(inference, "BOOTSTRAP_TO", BOOTSTRAP_TO + 1)
    resampled = difference(*pairs)
    assert student is not None
    assert resampled is not None
    assert student.low is not None
    assert student.high is not None
    near = 0.12 * (student.high - student.low)
    assert (resampled.low, resampled.high) == pytest.approx((student.low, student.high), abs=near)


@pytest.mark.parametrize("n", [12, 60, 300])
def test_equal_models_are_told_apart_as_seldom_as_promised(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the pairs differ: by the exact test, and by the normal distribution."""
    monkeypatch.setattr(inference, "BOOTSTRAP_TO", 0)  # of no concern here, and slow
    random, times, wrong = np.random.default_rng(n + 1), 1_000, 0
    for _ in range(times):
        moves = np.where(random.random(n) < 0.75, 0, 5 * random.integers(-3, 4, n))
        found = difference(np.full(n, 50), 50 + moves)
        assert found is not None
        assert found.p is not None
        wrong += found.p < 0.05
    assert wrong / times <= 0.06


@pytest.mark.parametrize("cells", [1, 6])
def test_the_interval_of_a_mean_holds_as_often_as_it_says(cells: int) -> None:
    """Of 30 documents, whose cells resemble each other and come in unequal numbers."""
    random, times, inside = np.random.default_rng(cells), 2_000, 0
    for _ in range(times):
        counts = np.full(30, 1) if cells == 1 else random.integers(1, cells + 1, 30)
        documents = np.repeat(np.arange(30), counts)
        values = np.repeat(random.normal(55, 12, 30), counts) + random.normal(0, 6, documents.size)
        found = estimate(values) if cells == 1 else clustered_estimate(values, documents)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 55 <= found.high
    assert inside / times == pytest.approx(0.95, abs=0.015)
