"""False "no worse" and "worse" are as rare as promised, by simulation of differences at the margin."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doceval_pipeline.domain.findings import Conclusion, MarginTest
from doceval_pipeline.statistics.margins import MarginEvidence, conclude, margin_test

Draw = Callable[[np.random.Generator, tuple[int, ...]], Any]

BATCHES = 10_000
DOCUMENTS = (20, 50, 200)
FAMILIES = (1, 3, 12)


def _bounded(differences: Any) -> Any:
    """Differences of scores in whole points."""
    return np.clip(np.round(differences), -100, 100)


def _ceiling(random: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Scores near 100 in steps of five, and somewhat lower ones."""
    leader = np.clip(5 * np.round(random.normal(96, 8, shape) / 5), 0, 100)
    return np.clip(5 * np.round((leader - 3.6 + random.normal(0, 6, shape)) / 5), 0, 100) - leader


def _drops(share: float, drop: float, usual: float = 0.0) -> Draw:
    """Most documents score alike, and a few far lower."""

    def draw(random: np.random.Generator, shape: tuple[int, ...]) -> Any:
        return np.where(random.random(shape) < share, -drop, usual)

    return draw


def _tailed(random: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return np.minimum(random.lognormal(0, 1, shape), 15)


# Each is tested with the margin that is exactly its true mean difference.
WORLDS: dict[str, Draw] = {
    "normal": lambda random, shape: _bounded(random.normal(-3, 8, shape)),
    "heavy tails": lambda random, shape: _bounded(-3 + 5 * random.standard_t(3, shape)),
    "long tail down": lambda random, shape: _bounded(6 - 6 * _tailed(random, shape)),
    "long tail up": lambda random, shape: _bounded(6 * _tailed(random, shape) - 13),
    "ceiling, steps of 5": _ceiling,
    "5 % drop by 60": _drops(0.05, 60),
    "10 % drop by 30": _drops(0.1, 30),
    "20 % drop by 15": _drops(0.2, 15),
    "3 % drop by 100": _drops(0.03, 100),
    "10 % drop by 100": _drops(0.1, 100),
    "30 % drop by 100": _drops(0.3, 100),
    "10 % drop by 75, others 5 higher": _drops(0.1, 75, 5),
}


@cache
def margin_of(world: str) -> float:
    return -float(WORLDS[world](np.random.default_rng(99), (4_000_000,)).mean())


def _could_show(gains: Any, worst: float) -> Any:
    """Where p can be below 1/e. The weighted mean has a log-concave density, and p is its chance to be below
    0 (Grünbaum 1960); skipping the others saves nine tenths of the time."""
    return gains.sum(axis=-1) + worst > 0


def false_findings(world: str, n: int, family: int, batches: int) -> tuple[float, float]:
    """The share of batches with any false "no worse", and with any false "worse".

    If all candidates lie at the margin, Holm's correction finds any exactly if it finds the smallest p.
    """
    random, margin, wrong = np.random.default_rng(n + family), margin_of(world), np.zeros(2)
    draw, level = WORLDS[world], 0.05 / family
    known: dict[bytes, MarginEvidence] = {}

    def test_of(differences: Any) -> MarginEvidence:
        """Samples of two values repeat; others are not worth keeping."""
        key = np.sort(differences).tobytes()
        test = known.get(key) or margin_test(np.zeros(n), differences, margin)
        if len(test.gains) <= 2:
            known[key] = test
        return test

    for _ in range(batches):
        differences = draw(random, (family, n))
        gains = differences + margin
        no_worse = _could_show(gains, margin - 100)
        worse = _could_show(-gains, -margin - 100)
        tests = [test_of(each) for each in differences[no_worse | worse]]
        wrong += [
            any(test.p_no_worse <= level for test in tests),
            any(test.p_worse <= level for test in tests),
        ]
    return float(wrong[0] / batches), float(wrong[1] / batches)


@pytest.mark.parametrize("world", WORLDS)
def test_a_few_hundred_batches_hardly_ever_show_what_is_not_so(world: str) -> None:
    no_worse, worse = false_findings(world, 200, 3, 250)
    assert max(no_worse, worse) <= 0.08


@pytest.mark.slow
@pytest.mark.parametrize("n", DOCUMENTS)
@pytest.mark.parametrize(
    "family", [FAMILIES[0], *(pytest.param(each, marks=pytest.mark.simulations) for each in FAMILIES[1:])]
)
@pytest.mark.parametrize("world", WORLDS)
def test_a_false_conclusion_appears_in_at_most_5_of_100_batches(world: str, family: int, n: int) -> None:
    # 10,000 batches measure 5 % to within 0.5.
    assert max(false_findings(world, n, family, BATCHES)) <= 0.055


def chosen_leader(n: int, batches: int, better: int, lower: int) -> tuple[float, float]:
    """False findings if some models are truly better by the margin and the highest mean leads."""
    random, margin, wrong = np.random.default_rng(n), 3.0, np.zeros(2)
    truth = np.array([margin] * better + [0.0] * lower)
    for _ in range(batches):
        scores = np.round(70 + random.normal(0, 6, (truth.size, n)) + truth[:, None])
        leader = int(np.argmax(scores.mean(axis=1)))
        others = [model for model in range(truth.size) if model != leader]
        found = conclude([margin_test(scores[leader], scores[model], margin) for model in others])
        behind = truth[others] - truth[leader]
        said = [test.conclusion for test in found]
        wrong += [
            any(c is Conclusion.NO_WORSE and b <= -margin for c, b in zip(said, behind, strict=True)),
            any(c is Conclusion.WORSE and b >= -margin for c, b in zip(said, behind, strict=True)),
        ]
    return float(wrong[0] / batches), float(wrong[1] / batches)


@pytest.mark.slow
@pytest.mark.parametrize(("better", "lower"), [(1, 11), (6, 6), (11, 1)])
@pytest.mark.parametrize("n", [200, 4_000])
def test_a_leader_that_is_chosen_by_its_scores_adds_no_false_conclusions(
    n: int, better: int, lower: int
) -> None:
    # 500 batches measure 5 % to within 2.
    assert max(chosen_leader(n, 500, better, lower)) <= 0.07


def power(spread: float, n: int, margin: float, family: int, batches: int) -> float:
    """The share of candidates as good as the leader that are shown to be no worse."""
    random = np.random.default_rng(n)
    return float(
        np.mean(
            [
                margin_test(np.zeros(n), _bounded(random.normal(0, spread, n)), margin).p_no_worse
                <= 0.05 / family
                for _ in range(batches)
            ]
        )
    )


def test_a_candidate_as_good_as_the_leader_is_mostly_shown_to_be_no_worse() -> None:
    assert power(8, 200, 3, 1, 100) >= 0.9
    assert power(15, 200, 5, 1, 100) >= 0.9
    assert power(8, 500, 3, 12, 50) >= 0.9


@pytest.mark.parametrize("margin", [0.5, 3.0, 50.0, 99.0])
@pytest.mark.parametrize("n", [1, 2, 20, 98, 5_000])
def test_of_equal_scores_p_is_the_exact_chance_to_have_missed_every_collapse(n: int, margin: float) -> None:
    # If a share of margin / 100 of all documents drops by 100 points, n documents show none with this chance.
    test = margin_test(np.full(n, 80), np.full(n, 80), margin)
    assert test.p_no_worse == pytest.approx((1 - margin / 100) ** n, rel=1e-7)
    assert test.p_worse == pytest.approx(1.0, abs=1e-9)


def test_p_is_the_share_of_random_weights_with_a_mean_beyond_the_margin() -> None:
    random = np.random.default_rng(3)
    for n in (3, 30, 200):
        differences = _bounded(random.normal(-2, 9, n))
        weights = random.dirichlet(np.ones(n + 1), 40_000)
        low, high = (weights @ np.append(differences, worst) for worst in (-100, 100))
        test = margin_test(np.zeros(n), differences, 3)
        assert test.p_no_worse == pytest.approx((low <= -3).mean(), abs=0.01)
        assert test.p_worse == pytest.approx((high >= -3).mean(), abs=0.01)


def test_fifty_equal_scores_are_no_proof_and_a_hundred_are() -> None:
    fifty, hundred = (margin_test(np.full(n, 90), np.full(n, 90), 3) for n in (50, 100))
    assert conclude([fifty]) == [MarginTest(3, Conclusion.UNKNOWN, 49)]
    assert conclude([hundred]) == [MarginTest(3, Conclusion.NO_WORSE, None)]
    # Shown beside others, it takes more.
    assert [test.conclusion for test in conclude([hundred] * 2)] == [Conclusion.UNKNOWN] * 2


def test_a_model_that_scores_far_lower_is_worse() -> None:
    leader = np.full(60, 90.0)
    lower = margin_test(leader, leader - np.resize([20.0, 30.0], 60), 3)
    assert conclude([lower]) == [MarginTest(3, Conclusion.WORSE, None)]


def test_without_pairs_or_at_the_margin_no_number_of_documents_helps() -> None:
    nothing = margin_test([], [], 3)
    at_margin = margin_test(np.full(40, 80.0), np.full(40, 77.0), 3)
    nearly = margin_test(np.full(40, 80.0), 77.001 + np.resize([-9.0, 9.0], 40), 3)
    unknown = MarginTest(3, Conclusion.UNKNOWN, None)
    assert conclude([nothing, at_margin, nearly]) == [unknown] * 3
    assert conclude([]) == []


def test_with_as_many_more_documents_four_of_five_samples_settle_it() -> None:
    random = np.random.default_rng(6)
    spread = np.resize([-12.0, 12.0], 40)
    for mean, expected in ((1.0, Conclusion.NO_WORSE), (-9.0, Conclusion.WORSE)):
        (found,) = conclude([margin_test(np.zeros(40), mean + spread, 3)])
        assert found.more_documents is not None
        n = 40 + found.more_documents
        settled = [
            conclude([margin_test(np.zeros(n), mean + 12 * random.choice([-1, 1], n), 3)])[0].conclusion
            for _ in range(200)
        ]
        assert settled.count(expected) / 200 == pytest.approx(0.8, abs=0.1)


def test_each_family_of_conclusions_is_corrected_for_all_tests() -> None:
    tests = [margin_test(np.full(n, 80), np.full(n, 80), 3) for n in (150, 110, 120)]
    # p is 0.010, 0.035 and 0.026: only the first stays below 5 % when multiplied by 3, 1 and 2.
    assert [test.conclusion for test in conclude(tests)] == [
        Conclusion.NO_WORSE,
        Conclusion.UNKNOWN,
        Conclusion.UNKNOWN,
    ]


MOVES = st.lists(st.integers(-20, 20).map(lambda step: 5.0 * step), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(MOVES, st.sampled_from([1.0, 3.0, 10.0, 100.0]))
def test_both_conclusions_are_never_shown_and_a_wider_margin_never_hurts(
    moves: list[float], margin: float
) -> None:
    zeros = [0.0] * len(moves)
    test = margin_test(zeros, moves, margin)
    assert 0 <= test.p_no_worse <= 1
    assert 0 <= test.p_worse <= 1
    assert test.p_no_worse + test.p_worse >= 1 - 1e-6
    wider = margin_test(zeros, moves, min(100.0, margin + 1))
    assert wider.p_no_worse <= test.p_no_worse + 1e-7
    assert wider.p_worse >= test.p_worse - 1e-7
    (found,) = conclude([test])
    assert found.more_documents is None or 1 <= found.more_documents <= 1_000_000


def test_a_hundred_thousand_different_differences_give_nearly_the_same_p_as_all_values() -> None:
    moves = np.random.default_rng(1).normal(-2.95, 8, 100_000)
    fine = margin_test(np.zeros(moves.size), moves, 3)
    normal = (moves.mean() + 3 - 0.97e-3) / (moves.std() / 100_000**0.5)
    assert len(fine.gains) <= 1_001
    assert fine.p_no_worse == pytest.approx(0.5 * math.erfc(normal / 2**0.5), abs=0.01)


def test_collapses_of_whole_clusters_are_not_overlooked() -> None:
    """One in ten clusters of unequal sizes collapses; the margin is the true mean difference."""
    random, times, wrong = np.random.default_rng(8), 400, 0
    for _ in range(times):
        clusters = np.repeat(np.arange(60), random.integers(1, 6, 60))
        moves = np.where(random.random(60) < 0.1, -80.0, 0.0)[clusters]
        wrong += margin_test(np.zeros(moves.size), moves, 8, clusters=clusters).p_no_worse <= 0.05
    assert wrong / times <= 0.07
