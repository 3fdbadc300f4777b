"""What the page says of insights: which numbers, beside how many they were counted over."""

from dataclasses import replace

import pytest

from doceval_pipeline.domain.findings import Difference, Estimate
from doceval_pipeline.domain.insights import NOTHING, Agreement, Disagreement, Insights, Standing
from doceval_pipeline.domain.usage import Cost
from doceval_pipeline_tests.reports.sample_reports import (
    batch,
    cell,
    column,
    document,
    failed,
    insights_of,
    report_input,
)
from doceval_pipeline_tests.reports.test_html import Page, assert_inert, render, said

FILES = [document(1), document(2)]
COLUMNS = [column(1), column(2)]
ROWS = [cell(n, c, score=10.0 * n + c) for n in (1, 2) for c in (1, 2)]


def said_of(**changes: object) -> str:
    """The text of a page of two documents and two models, with such insights."""
    insights = replace(NOTHING, **changes)  # type: ignore[arg-type]
    return said(report_input(FILES, COLUMNS, ROWS, insights=insights))


def standing(connection: int, mean: float, **changes: object) -> Standing:
    values: dict[str, object] = {
        "column": (connection, 1),
        "scores": Estimate(9, mean, mean - 2, mean + 2),
        "behind": None,
        "tied": False,
        "failed": 0,
        "without_score": 0,
        "without_result": 0,
    }
    return Standing(**(values | changes))  # type: ignore[arg-type]


def behind(mean: float, p: float | None) -> Difference:
    return Difference(8, mean, mean - 1, mean + 1, p, 2.0)


def test_the_mean_score_has_its_interval() -> None:
    text = said_of(scores=Estimate(4, 16.5, 12.25, 20.75))
    assert "mean over 4 of 4 evaluations 95 % interval 12.2 to 20.8" in text


def test_a_mean_of_one_value_has_no_interval() -> None:
    text = said_of(leaderboard=[standing(1, 50.0, scores=Estimate(1, 50.0, None, None))])
    assert "50 no interval n = 1" in text


def test_the_verdict_names_the_leader_and_how_many_are_tied() -> None:
    tied = standing(2, 79.0, behind=behind(-1.0, 0.4), tied=True)
    text = said_of(leaderboard=[standing(1, 80.0), tied])
    assert "Highest mean score: model-1 · prompt-1 with 80 (95 % interval 78 to 82, n = 9)." in text
    assert "1 other is tied with it: the data do not separate them." in text
    assert text.index("Highest mean score") < text.index("Documents")
    assert "tied −1 −2 to 0 p = 0.4, n = 8" in text


def test_the_verdict_says_that_none_is_tied_with_the_leader() -> None:
    text = said_of(leaderboard=[standing(1, 80.0), standing(2, 60.0, behind=behind(-20.0, 0.0001))])
    assert "None is tied with it." in text
    assert "−20 −21 to −19 p < 0.001, n = 8" in text


def test_a_single_column_has_no_leaderboard_verdict() -> None:
    text = said_of(leaderboard=[standing(1, 80.0)])
    assert "Highest mean score" not in text
    assert "Against the leader" not in text


def test_the_leaderboard_says_what_is_not_in_a_mean_and_why() -> None:
    entry = standing(1, 80.0, failed=3, without_score=2, without_result=1)
    text = said_of(leaderboard=[entry, standing(2, 70.0, scores=None, failed=9)])
    assert "3 failed, 2 without a score, 1 without a result" in text
    assert "– model-2 prompt-1 no scores 9 failed" in text


def test_columns_without_a_document_in_common_are_not_compared() -> None:
    text = said_of(leaderboard=[standing(1, 80.0), standing(2, 70.0)])
    assert "no shared documents none" in text


def test_a_disagreement_opens_what_each_model_said() -> None:
    insights = replace(NOTHING, disagreements=[Disagreement("file-1.pdf", 1, 1, ((1, 11.0), (2, 92.0)))])
    page = Page(render(report_input(FILES, COLUMNS, ROWS, insights=insights)))
    assert "81 n = 2 model-2 92 model-1 11" in " ".join(page.text.split())
    assert page.values("popovertarget").count("r1-2-1") == 3
    assert_inert(page)


def test_a_disagreement_about_a_document_that_is_not_shown_is_text_alone() -> None:
    insights = replace(NOTHING, disagreements=[Disagreement("far", 99, 1, ((1, 11.0), (2, 92.0)))])
    assert_inert(Page(render(report_input(FILES, COLUMNS, ROWS, insights=insights))))


def test_agreement_says_how_often_how_far_and_over_how_many() -> None:
    text = said_of(agreements=[Agreement(1, 2, 40, -0.25, 7.5, 39), Agreement(2, 3, 2, None, 0.0, 2)])
    assert "model-1 model-2 98 %, 39 of 40 7.5 −0.25 40" in text
    assert "model-2 connection 3 100 %, 2 of 2 0 one always gives the same score 2" in text


def test_a_cost_says_what_is_not_in_it() -> None:
    text = said_of(costs=[Cost(12.5, "USD", 3, 1), Cost(0.0012, "EUR", 1, 3)])
    assert "12.50 USD for 3 evaluations; 1 more without a price or tokens" in text
    assert "0.0012 EUR for 1 evaluation; 3 more without a price or tokens" in text


@pytest.mark.parametrize("costs", [[], [Cost(0.0, "USD", 0, 4)]])
def test_a_cost_of_nothing_priced_is_unknown_and_not_0(costs: list[Cost]) -> None:
    assert "Cost unknown no evaluation has a price and tokens" in said_of(costs=costs)


def test_the_page_of_a_batch_has_every_section() -> None:
    data = batch(12, 2, 2)
    text = said(data)
    for words in (
        "Compared with batch-000069 contracts-q3 , completed 2026-11-16 09:00 UTC, over the 12 documents",
        "prompt text changed",
        "not compared: 1 scored only before, 0 only now",
        "Largest changes of gpt-4o · clarity",
        "1 stall, framed above",
        "2026-11-23 09:06:30 UTC for 1 min 45 s",
        "median (p50)",
        "47 evaluations at attempt 1, 1 evaluation at attempt 2",
        "4 documents were stored before this batch",
        "Dagster run of queue_rows 00000003-1f2e-4d3c-8b9a-0123456789ab",
    ):
        assert words in text
    assert_inert(Page(render(data)))


def test_failures_come_with_the_command_that_tries_them_again() -> None:
    data = report_input(FILES, [column()], [cell(1), failed(2)], name="Bob's; rm -rf")
    assert "Retry exactly these: doceval reprocess 'Bob'\"'\"'s; rm -rf' --failed" in said(data)


def test_a_batch_that_is_larger_than_the_page_tells_where_all_of_it_is() -> None:
    data = report_input(FILES, [column()], [cell(1), cell(2)], rows_total=1_000_000)
    assert (
        "To export all data: doceval export contracts-q4 --format parquet --output batch-000070.parquet"
        in said(data)
    )


def test_the_page_does_not_depend_on_the_order_of_names() -> None:
    insights: Insights = insights_of(FILES, COLUMNS, ROWS)
    first = report_input(FILES, COLUMNS, ROWS, insights=insights, versions={"a": "1", "b": "2"})
    second = report_input(FILES, COLUMNS, ROWS, insights=insights, versions={"b": "2", "a": "1"})
    assert render(first) == render(second)


def test_columns_without_a_document_in_common_count_as_tied() -> None:
    text = said_of(leaderboard=[standing(1, 80.0), standing(2, 70.0, tied=True)])
    assert "1 other is tied with it" in text
    assert "tied no shared documents" in text


def test_long_lists_say_how_much_they_leave_out() -> None:
    data = batch(3, 2, 1)
    previous, throughput = data.insights.previous, data.insights.throughput
    assert previous is not None
    assert throughput is not None
    insights = replace(
        data.insights,
        agreements=[],
        previous=replace(previous, shared_columns=30),
        throughput=replace(throughput, all_stalls=40),
    )
    text = said(replace(data, insights=insights))
    assert "Only the best 2 of 30 connections and prompts that both batches have are compared." in text
    assert (
        "40 stalls, framed above: nothing finished although work was left. Only the longest are shown."
        in text
    )


def test_connections_that_are_in_no_pair_are_counted() -> None:
    board = [standing(number, 80.0 - number) for number in (1, 2, 3)]
    text = said_of(leaderboard=board, agreements=[Agreement(1, 2, 9, 0.5, 3.0, 9)])
    assert "1 more connection has scores but no pair here" in text


def test_a_group_of_failures_says_how_many_messages_it_has() -> None:
    rows = [failed(1, "retry after 20 s"), failed(2, "retry after 21 s")]
    assert "The most frequent message; 1 other differs only in numbers, ids or names." in said(
        report_input(FILES, [column()], rows)
    )
