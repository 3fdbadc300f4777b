"""The statistics match published examples and plain implementations of their definitions."""

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr, t, wilcoxon

from doceval_pipeline.statistics import inference
from doceval_pipeline.statistics.inference import (
    BOOTSTRAP_FROM,
    BOOTSTRAP_TO,
    EXACT_TO,
    TYPICAL_SPREAD,
    Difference,
    clustered_estimate,
    corrected,
    correlation_of_places,
    detectable_difference,
    difference,
    estimate,
    estimate_of_sums,
    places,
)

# Extra hours of sleep under two drugs, by Cushny and Peebles, as Student printed them (The probable error of
# a mean, 1908); the second drug minus the first. R ships them as `sleep`.
SLEEP = (
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)
# Darwin's maize, cross- minus self-fertilized plants in eighths of an inch, as Fisher printed it (The Design
# of Experiments, 1935, section 17).
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
# Scores of twins at home and in nursery school, and of students; Siegel, Nonparametric Statistics (1956),
# the examples of Wilcoxon's test and of Spearman's coefficient.
TWINS = ([63, 42, 74, 37, 51, 43, 80, 62], [82, 69, 73, 43, 58, 56, 76, 65])
STUDENTS = (
    [82, 98, 87, 40, 116, 113, 111, 83, 85, 126, 106, 117],
    [42, 46, 39, 37, 65, 88, 86, 56, 62, 92, 54, 81],
)

SCORES = st.floats(0, 100) | st.integers(0, 20).map(lambda step: 5.0 * step)
PAIRS = st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=40)


@pytest.fixture(autouse=True)
def _nothing_is_warned_of() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def sides(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [first for first, _ in pairs], [second for _, second in pairs]


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    return correlation_of_places(places(first), places(second))


def test_students_sleep_data_has_the_published_interval() -> None:
    found = difference(*SLEEP)
    assert found is not None
    assert (found.n, found.mean) == (10, pytest.approx(1.58))
    assert found.low == pytest.approx(0.7001142, abs=1e-6)
    assert found.high == pytest.approx(2.4598858, abs=1e-6)


def test_darwins_maize_has_fishers_t() -> None:
    found = estimate(MAIZE)
    assert found is not None
    assert found.low is not None
    half = found.mean - found.low
    assert found.mean == pytest.approx(20.933, abs=5e-4)
    assert found.mean / half * 2.1448 == pytest.approx(2.148, abs=5e-4)


def test_darwins_maize_has_the_exact_p_of_wilcoxons_test() -> None:
    # The ranks of the two that are negative add up to 24; Wilcoxon, Individual comparisons by ranking
    # methods (1945), takes it as his example.
    found = difference([0] * len(MAIZE), MAIZE)
    assert found is not None
    assert found.p == pytest.approx(1352 / 2**15)


def test_siegels_twins_have_the_exact_p_of_a_rank_sum_of_four() -> None:
    # Of 2^8 ways to give signs, 7 have a sum of 4 or less: none, 1, 2, 3, 1 + 2, 4, 1 + 3.
    found = difference(*TWINS)
    assert found is not None
    assert found.p == pytest.approx(14 / 256)


def test_siegels_students_have_the_published_rank_correlation() -> None:
    assert correlation(*STUDENTS) == pytest.approx(1 - 6 * 52 / (12**3 - 12))


def test_half_a_standard_deviation_is_detectable_from_34_pairs_on() -> None:
    # Cohen, Statistical Power Analysis (1988), of a paired t test at 5 % with a power of 80 %.
    for n, seen in ((33, False), (34, True)):
        spread = np.resize([-10.0, 10.0], n)
        found = difference(np.full(n, 50), 50 + spread)
        assert found is not None
        assert found.detectable is not None
        assert bool(found.detectable <= 0.5 * np.std(spread, ddof=1)) is seen


def test_holms_correction_of_four_comparisons_matches_the_textbooks() -> None:
    given_p = [0.01, 0.04, 0.03, 0.005]
    found = corrected([with_p(p) for p in given_p])
    assert [each.p for each in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])


def with_p(p: float | None) -> Difference:
    return Difference(9, 1.0, 0.5, 1.5, p, 1.0)


@settings(deadline=None)  # whoever is first loads scipy
@given(st.lists(st.none() | st.floats(0, 1), max_size=7))
def test_holms_correction_is_the_closure_of_bonferronis(given_p: list[float | None]) -> None:
    """Marcus, Peritz and Gabriel: each p is the largest p of any group that contains the comparison."""
    tested = [place for place, p in enumerate(given_p) if p is not None]
    expected: dict[int, float] = dict.fromkeys(tested, 0.0)
    for size in range(1, len(tested) + 1):
        for group in itertools.combinations(tested, size):
            p = min(1.0, size * min(given_p[place] or 0.0 for place in group))
            for place in group:
                expected[place] = max(expected[place], p)
    found = corrected([with_p(p) for p in given_p])
    assert [each.p for each in found] == [
        None if p is None else pytest.approx(expected[place]) for place, p in enumerate(given_p)
    ]
    assert all(
        each.p >= p for each, p in zip(found, given_p, strict=True) if p is not None and each.p is not None
    )
    assert all((each.n, each.mean) == (9, 1.0) for each in found)


@settings(deadline=None)  # whoever is first loads scipy
@given(st.lists(st.sampled_from([-30.0, -10.0, -5.0, 0.0, 5.0, 10.0, 20.0]), min_size=2, max_size=10))
def test_the_exact_p_counts_all_arrangements_of_signs(differences: list[float]) -> None:
    found = difference([50] * len(differences), [50 + d for d in differences])
    assert found is not None
    assert found.p == pytest.approx(counted_p(differences))


def counted_p(differences: list[float]) -> float:
    """The p from every arrangement of signs: ties share their rank, zeros are ranked and then left out."""
    sizes = [abs(d) for d in differences]
    ranks = [
        sum(other < size for other in sizes) + (sum(other == size for other in sizes) + 1) / 2
        for size in sizes
    ]
    moved = [(rank, d > 0) for rank, d in zip(ranks, differences, strict=True) if d]
    whole = sum(rank for rank, _ in moved)
    observed = abs(2 * sum(rank for rank, up in moved if up) - whole)
    ways = [
        abs(2 * sum(rank for (rank, _), up in zip(moved, signs, strict=True) if up) - whole)
        for signs in itertools.product((False, True), repeat=len(moved))
    ]
    return sum(way >= observed for way in ways) / len(ways)


@pytest.mark.parametrize("n", [EXACT_TO, 400])
@pytest.mark.parametrize("shift", [0.2, 0.4])
def test_the_exact_and_the_normal_p_agree_where_they_meet(
    n: int, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(3)
    up = random.random(EXACT_TO) < 0.5 + shift / 2
    moves = np.append(random.integers(1, 200, EXACT_TO) * np.where(up, 0.1, -0.1), np.zeros(n - EXACT_TO))
    exact = difference(np.zeros(n), moves)
    monkeypatch.setattr(inference, "EXACT_TO", 0)
    normal = difference(np.zeros(n), moves)
    assert exact is not None
    assert normal is not None
    assert normal.p == pytest.approx(exact.p, abs=0.02)


def test_many_equal_pairs_are_not_evidence_of_a_difference() -> None:
    # A normal approximation would give p = 0.025 for five rises and no fall.
    found = difference(np.zeros(1_000), np.append(np.zeros(995), [10.0, 20, 30, 40, 50]))
    assert found is not None
    assert found.p == 2 / 2**5
    assert not found.told_apart


@pytest.mark.parametrize("n", [BOOTSTRAP_FROM, 40])
def test_the_interval_reaches_as_far_as_students_and_as_efrons(n: int) -> None:
    random = np.random.default_rng(n)
    moves = random.exponential(10, n).round(1) - 6
    found = difference(np.full(n, 20.0), 20 + moves)
    assert found is not None
    near = 0.03 * float(np.std(moves))
    half = float(t.ppf(0.975, n - 1)) * float(np.std(moves, ddof=1)) / math.sqrt(n)
    student, efron = (moves.mean() - half, moves.mean() + half), efrons_interval(moves, random)
    assert efron[1] > student[1] + near
    assert efron[0] > student[0] + near
    assert (found.low, found.high) == pytest.approx((student[0], efron[1]), abs=near)


def efrons_interval(values: "np.ndarray[Any, Any]", random: np.random.Generator) -> tuple[float, float]:
    """Efron and Tibshirani, An Introduction to the Bootstrap (1993), equations 14.9 to 14.15."""
    from statistics import NormalDist

    normal, n, mean = NormalDist(), len(values), values.mean()
    means = np.sort(values[random.integers(0, n, (40_000, n))].mean(axis=1))
    z0 = normal.inv_cdf((np.mean(means < mean) + np.mean(means <= mean)) / 2)
    left_out = (values.sum() - values) / (n - 1)
    apart = left_out.mean() - left_out
    acceleration = (apart**3).sum() / (6 * (apart**2).sum() ** 1.5)
    ends = []
    for tail in (0.025, 0.975):
        z = z0 + normal.inv_cdf(tail)
        ends.append(float(np.quantile(means, normal.cdf(z0 + z / (1 - acceleration * z)))))
    return ends[0], ends[1]


def test_sums_over_clusters_give_the_interval_of_a_ratio_of_sums() -> None:
    values, documents = [80.0, 90, 70, 20, 40, 60, 55, 65], [1, 1, 1, 2, 2, 3, 4, 4]
    mean = sum(values) / 8
    sums = [
        sum(v - mean for v, d in zip(values, documents, strict=True) if d == document)
        for document in range(1, 5)
    ]
    found = estimate_of_sums(8, mean, 4, sum(s * s for s in sums))
    assert found.low is not None
    error = math.sqrt(4 / 3 * sum(s * s for s in sums)) / 8
    assert (found.n, found.mean) == (8, pytest.approx(mean))
    assert mean - found.low == pytest.approx(3.182446 * error, rel=1e-6)


@pytest.mark.parametrize(
    ("documents", "shown"), [(1, None), (2, None), (5, 25.2), (10, 14.9), (100, 4.24), (1_000_000, 0.042)]
)
def test_ten_documents_show_differences_of_about_15_points(documents: int, shown: float | None) -> None:
    found = detectable_difference(documents, TYPICAL_SPREAD)
    assert (found is None) is (shown is None)
    assert found is None or found == pytest.approx(shown, rel=0.01)


def test_what_a_sample_can_show_is_what_was_said_before() -> None:
    moves = np.resize([-10.0, 10.0], 34)
    found = difference(np.zeros(34), moves)
    assert found is not None
    assert found.detectable == detectable_difference(34, float(np.std(moves, ddof=1)))


@settings(deadline=None)  # whoever is first loads scipy
@given(st.lists(SCORES, min_size=2, max_size=30), st.integers(2, 5))
def test_repeating_scores_in_a_cluster_does_not_narrow_the_interval(values: list[float], times: int) -> None:
    once = estimate(values)
    again = clustered_estimate(values * times, list(range(len(values))) * times)
    assert once is not None
    assert again is not None
    assert again.n == times * once.n
    assert again.mean == pytest.approx(once.mean, abs=1e-9)
    if once.low is not None and again.low is not None:
        assert (again.low, again.high) == pytest.approx((once.low, once.high), abs=1e-6)


@settings(deadline=None)  # whoever is first loads scipy
@given(st.lists(SCORES, min_size=1, max_size=30))
def test_a_mean_lies_in_its_interval_and_both_are_scores(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert (found.low is None) == (found.high is None)
    if found.low is not None and found.high is not None:
        assert 0 <= found.low <= found.mean <= found.high <= 100


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(pairs: list[tuple[float, float]], random: Any) -> None:
    shuffled = random.sample(pairs, len(pairs))
    assert difference(*sides(shuffled)) == difference(*sides(pairs))


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_swapping_the_sides_only_changes_the_signs(pairs: list[tuple[float, float]]) -> None:
    first, second = sides(pairs)
    one, other = difference(first, second), difference(second, first)
    assert one is not None
    assert other is not None
    assert (one.n, one.mean, one.p, one.detectable) == (other.n, -other.mean, other.p, other.detectable)
    if one.low is not None and one.high is not None:
        assert (other.high, other.low) == (-one.low, -one.high)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.integers(-100, 100))
def test_adding_the_same_points_to_both_sides_changes_nothing(
    pairs: list[tuple[float, float]], gain: int
) -> None:
    first, second = sides([(round(a, 3), round(b, 3)) for a, b in pairs])
    before = difference(first, second)
    after = difference([a + gain for a in first], [b + gain for b in second])
    assert before == after


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_a_difference_is_told_honestly(pairs: list[tuple[float, float]]) -> None:
    first, second = sides(pairs)
    found = difference(first, second)
    assert found is not None
    moves = np.round(np.subtract(second, first), 9)
    assert found.n == len(pairs)
    assert found.mean == pytest.approx(moves.mean(), abs=1e-9)
    assert (found.p is None) == (len(pairs) == 1)
    assert found.p is None or 0 < found.p <= 1
    assert (found.low is None) == (found.high is None) == (np.ptp(moves) == 0)
    if found.low is not None and found.high is not None:
        assert -100 <= found.low <= found.high <= 100
        assert found.low <= found.mean <= found.high
    assert found.detectable is None or 0 < found.detectable <= 100


@pytest.mark.parametrize("n", [BOOTSTRAP_TO, BOOTSTRAP_TO + 1, 20_000])
def test_many_pairs_give_the_same_numbers_each_time(n: int) -> None:
    random = np.random.default_rng(5)
    first = random.integers(0, 101, n)
    second = np.clip(first + random.integers(-20, 21, n), 0, 100)
    found = difference(first, second)
    assert found == difference(first, second)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    half = 1.962 * np.std(second - first, ddof=1) / math.sqrt(n)
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.05 * half)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([], [], None),
        ([40], [70], Difference(1, 30, None, None, None, None)),
        ([0, 0], [100, 100], Difference(2, 100, None, None, 0.5, None)),
        ([70] * 50, [70] * 50, Difference(50, 0, None, None, 1.0, None)),
        ([0.1, 0.2], [0.3, 0.4], Difference(2, 0.2, None, None, 0.5, None)),
    ],
    ids=["nothing", "one pair", "from edge to edge", "all the same", "the same but for rounding"],
)
def test_without_spread_there_is_no_interval(
    first: list[float], second: list[float], expected: Difference | None
) -> None:
    assert difference(first, second) == expected


def test_a_constant_rise_is_significant_although_it_has_no_interval() -> None:
    found = difference([70.0] * 8, [75.0] * 8)
    assert found == Difference(8, 5.0, None, None, 2 / 2**8, None)
    assert found.told_apart
    assert not Difference(5, 5.0, None, None, 2 / 2**5, None).told_apart


@pytest.mark.parametrize(
    ("p", "low", "high", "told"),
    [
        (0.049, 0.1, 2.0, True),
        (0.049, -2.0, -0.1, True),
        (0.049, -0.1, 2.0, False),
        (0.05, 0.1, 2.0, False),
        (None, None, None, False),
    ],
)
def test_a_difference_is_significant_if_interval_and_test_agree(
    p: float | None, low: float | None, high: float | None, told: bool
) -> None:
    assert Difference(20, 1.0, low, high, p, 1.0).told_apart is told


def test_too_few_pairs_have_no_detectable_difference() -> None:
    found = difference([0, 100], [100, 0])
    assert found == Difference(2, 0.0, -100, 100, 1.0, None)


def test_no_one_or_equal_scores_have_no_interval() -> None:
    assert estimate([]) is None
    assert [estimate(values) for values in ([0.0], [100.0] * 3, [0.1] * 3)] == [
        inference.Estimate(1, 0.0, None, None),
        inference.Estimate(3, 100.0, None, None),
        inference.Estimate(3, pytest.approx(0.1), None, None),
    ]
    assert clustered_estimate([10, 20, 30], [7, 7, 7]) == inference.Estimate(3, 20.0, None, None)
    assert clustered_estimate([10, 30, 10, 30], [1, 1, 2, 2]) == inference.Estimate(4, 20.0, None, None)


@settings(deadline=None)
@given(st.lists(st.tuples(SCORES, SCORES), min_size=EXACT_TO + 1, max_size=150), st.integers(0, 60))
def test_many_pairs_have_the_p_of_scipys_wilcoxon(pairs: list[tuple[float, float]], zeros: int) -> None:
    first, second = sides(pairs + [(50.0, 50.0)] * zeros)
    differences = np.sort(np.round(np.array(second) - np.array(first), 9))
    found = inference._signed_rank_p(differences)
    if np.count_nonzero(differences) > EXACT_TO:
        expected = float(wilcoxon(differences, zero_method="pratt", method="asymptotic").pvalue)
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-300)
    elif np.count_nonzero(differences):
        assert 0 < found <= 1


@settings(deadline=None)
@given(st.sets(st.integers(1, 1000), min_size=1, max_size=EXACT_TO), st.data())
def test_few_different_pairs_have_the_p_of_scipys_exact_test(sizes: set[int], data: st.DataObject) -> None:
    signs = data.draw(st.lists(st.sampled_from([-1, 1]), min_size=len(sizes), max_size=len(sizes)))
    differences = np.sort(np.multiply(sorted(sizes), signs).astype(np.float64))
    expected = float(wilcoxon(differences, method="exact").pvalue)
    assert inference._signed_rank_p(differences) == pytest.approx(expected, rel=1e-12)


@given(PAIRS)
def test_the_rank_correlation_is_scipys(pairs: list[tuple[float, float]]) -> None:
    first, second = sides(pairs)
    found = correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(float(spearmanr(first, second).statistic), rel=1e-12, abs=1e-12)


@given(PAIRS, st.lists(SCORES))
def test_places_among_more_values_give_the_same_correlation(
    pairs: list[tuple[float, float]], more: list[float]
) -> None:
    first, second = sides(pairs)
    among_more = [places([*side, *more])[: len(pairs)] for side in (first, second)]
    assert correlation_of_places(*among_more) == correlation(first, second)


def test_constant_scores_have_no_rank_correlation() -> None:
    assert correlation([], []) is None
    assert correlation([1], [2]) is None
    assert correlation([5, 5, 5], [1, 2, 3]) is None
    assert correlation([1, 2], [2, 4]) == pytest.approx(1)
    assert correlation([0, 50, 100], [100, 50, 0]) == pytest.approx(-1)
