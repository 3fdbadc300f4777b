"""Leaderboards of a batch: by prompt, the overall one, and the models that may replace the leader."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.domain.columns import Column
from doceval_pipeline.domain.criteria import Criterion
from doceval_pipeline.domain.findings import Conclusion
from doceval_pipeline.domain.usage import ColumnUsage, Cost, ProcessingTime
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.standings import Leaderboards, RankingInput, Values, rank_models
from doceval_pipeline_tests.reports.sample_reports import cell, column, report_input

NAN = float("nan")
RISING = np.arange(30.0)
FOUR = [(1, 1), (1, 2), (2, 1), (2, 2)]


def ranked(columns: Sequence[Column], values: Values, **given_: object) -> Leaderboards:
    data = report_input([], [column(*key) for key in columns], [cell(1, *key) for key in columns])
    return rank_models(figures(data).columns, RankingInput(columns, values, **given_))  # type: ignore[arg-type]


def usage(amount: float | None = None, seconds: float | None = None, currency: str = "USD") -> ColumnUsage:
    return ColumnUsage(
        10,
        seconds=None if seconds is None else ProcessingTime(10, seconds, seconds),
        cost=None if amount is None else Cost(amount, currency, 10, 0),
    )


def test_models_are_ranked_within_each_prompt() -> None:
    values = np.column_stack([60 + RISING, 10 + RISING, 50 + RISING, 20 + RISING])
    boards = ranked(FOUR, values)
    assert boards.overall is None
    assert [board.prompt_id for board in boards.by_prompt] == [1, 2]
    assert [[s.connection_id for s in board.standings] for board in boards.by_prompt] == [[1, 2], [2, 1]]
    for board in boards.by_prompt:
        leader, second = board.standings
        assert leader.difference is not None
        assert second.difference is not None
        assert (leader.difference.mean, second.difference.mean) == (10.0, -10.0)
        assert (leader.against, second.against) == (second.connection_id, leader.connection_id)
        assert (leader.tied, second.tied) == (False, False)


def test_models_with_different_documents_are_ranked_on_equal_ones() -> None:
    """The second has the higher mean, because it failed on the hard documents."""
    values = np.array([[90.0, 85.0], [80.0, 75.0], [20.0, NAN], [10.0, NAN]])
    (board,) = ranked([(1, 1), (2, 1)], values).by_prompt
    leader, second = board.standings
    assert leader.connection_id == 1
    assert leader.scores is not None
    assert second.scores is not None
    assert leader.scores.mean < second.scores.mean
    assert not board.is_same_documents


@given(st.lists(st.lists(st.integers(0, 100), min_size=2, max_size=2), min_size=1, max_size=20), st.data())
def test_of_two_models_the_leader_scores_no_lower_on_common_documents(
    rows: list[list[int]], data: st.DataObject
) -> None:
    values = np.array(rows, dtype=np.float64)
    missing = data.draw(st.lists(st.sampled_from([0, 1, None]), min_size=len(rows), max_size=len(rows)))
    for row, place in enumerate(missing):
        if place is not None:
            values[row, place] = NAN
    (board,) = ranked([(1, 1), (2, 1)], values).by_prompt
    if board.ranked and (lead := board.ranked[0].difference) is not None:
        assert lead.mean >= -1e-6


def test_the_overall_ranking_weighs_prompts_and_needs_two_of_them() -> None:
    values = np.column_stack([60 + RISING, 10 + RISING, 50 + RISING, 20 + RISING])
    overall = ranked(FOUR, values, criteria={1: Criterion(weight=3.0), 2: Criterion(weight=1.0)}).overall
    assert overall is not None
    assert overall.prompt_id is None
    assert overall.weights == ((1, 3.0), (2, 1.0))
    leader, second = overall.standings
    assert (leader.connection_id, second.connection_id) == (1, 2)
    assert leader.difference is not None
    assert leader.difference.mean == pytest.approx((3 * 10 - 1 * 10) / 4)
    assert ranked(FOUR, values, criteria={1: Criterion(weight=3.0)}).overall is None


def test_a_document_without_all_weighted_scores_is_not_in_the_overall_ranking() -> None:
    values = np.array([[60.0, 10.0, 50.0, 20.0], [60.0, NAN, 50.0, 20.0]])
    overall = ranked(FOUR, values, criteria={1: Criterion(weight=1.0), 2: Criterion(weight=1.0)}).overall
    assert overall is not None
    by_connection = {standing.connection_id: standing for standing in overall.standings}
    assert by_connection[1].scores is not None
    assert by_connection[2].scores is not None
    assert (by_connection[1].scores.n, by_connection[2].scores.n) == (1, 2)


@pytest.mark.parametrize(
    ("second", "known"),
    [(usage(4.0), True), (usage(), False), (usage(4.0, currency="EUR"), False)],
)
def test_the_overall_cost_of_a_document_is_that_of_all_weighted_prompts(
    second: ColumnUsage, known: bool
) -> None:
    """Or unknown, if that of any prompt is, or if they have two currencies."""
    values = np.tile(50 + RISING[:, None], 2)
    overall = ranked(
        [(1, 1), (1, 2)],
        values,
        criteria={1: Criterion(weight=1.0), 2: Criterion(weight=9.0)},
        usage={(1, 1): usage(2.0), (1, 2): second},
    ).overall
    assert overall is not None
    (standing,) = overall.standings
    assert standing.usage.cost_per_document == (pytest.approx(0.6) if known else None)


@pytest.mark.parametrize(
    ("usages", "tested"),
    [
        ({(1, 1): usage(2.0), (2, 1): usage(1.0)}, True),
        ({(1, 1): usage(1.0, 9.0), (2, 1): usage(2.0, 8.0)}, True),
        # The next batch may turn so small a difference round.
        ({(1, 1): usage(1.0, 9.0), (2, 1): usage(2.0, 8.9)}, False),
        ({(1, 1): usage(1.0), (2, 1): usage(2.0)}, False),
        ({(1, 1): usage(2.0), (2, 1): usage(1.0, currency="EUR")}, False),
        ({(1, 1): usage(2.0), (2, 1): usage()}, False),
        ({}, False),
    ],
)
def test_only_cheaper_or_faster_models_are_tested_against_the_margin(
    usages: Mapping[Column, ColumnUsage], tested: bool
) -> None:
    noise = np.random.default_rng(1).normal(0, 2, 200)
    values = np.column_stack([60 + noise, 59.9 + np.roll(noise, 1)])
    (board,) = ranked([(1, 1), (2, 1)], values, usage=usages, margin=3.0).by_prompt
    leader, second = board.standings
    assert leader.margin_test is None
    assert (second.margin_test is not None) == tested
    if second.margin_test is not None:
        assert second.margin_test.conclusion is Conclusion.NO_WORSE
        assert second.margin_test.margin == 3.0
    (without,) = ranked([(1, 1), (2, 1)], values, usage=usages).by_prompt
    assert all(standing.margin_test is None for standing in without.standings)


def test_no_margin_is_tested_on_weights_that_may_still_be_changed() -> None:
    noise = np.random.default_rng(1).normal(0, 2, 200)
    values = np.column_stack([60 + noise, 60 + noise, 59.9 + np.roll(noise, 1), 59.9 + np.roll(noise, 1)])
    boards = ranked(
        FOUR,
        values,
        usage={(1, 1): usage(2.0), (1, 2): usage(2.0), (2, 1): usage(1.0), (2, 2): usage(1.0)},
        criteria={1: Criterion(weight=1.0), 2: Criterion(weight=1.0)},
        margin=3.0,
    )
    assert boards.overall is not None
    assert all(standing.margin_test is None for standing in boards.overall.standings)
    assert all(board.standings[1].margin_test is not None for board in boards.by_prompt)


def test_versions_of_a_document_count_as_one_cluster() -> None:
    """Copies of the same ten documents make no interval shorter."""
    ten = np.column_stack([60 + RISING[:10], 55 + RISING[:10] + np.tile([-4.0, 4.0], 5)])
    copies, clusters = np.tile(ten, (10, 1)), np.tile(np.arange(10), 10)

    def width(values: Values, **given_: object) -> float:
        difference = ranked([(1, 1), (2, 1)], values, **given_).by_prompt[0].standings[0].difference
        assert difference is not None
        assert difference.low is not None
        assert difference.high is not None
        return difference.high - difference.low

    alone = width(ten)
    assert width(copies) < alone / 2
    assert width(copies, clusters=clusters) == pytest.approx(alone, rel=0.35)
