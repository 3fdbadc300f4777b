"""What the page says of insights: which numbers, beside how many they were counted over."""

from dataclasses import replace

import pytest

from doceval_pipeline.domain.evaluations import CellCounts
from doceval_pipeline.domain.findings import Conclusion, Difference, Estimate, MarginTest
from doceval_pipeline.domain.insights import (
    NOTHING,
    Agreement,
    BelowThreshold,
    Disagreement,
    Insights,
    LowDocument,
    NearScore,
    PromptLeaderboard,
    Standing,
)
from doceval_pipeline.domain.results import ResultSums, Total
from doceval_pipeline.domain.usage import ColumnUsage, Cost, ProcessingTime
from doceval_pipeline_tests.reports.sample_reports import (
    REPORTS,
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


CONFIG = {"connections": [{"name": f"model-{n}", "model_name": f"m{n}"} for n in (1, 2)]}


def said_of(**changes: object) -> str:
    """The text of a page of two documents and two models, with such insights."""
    insights = replace(NOTHING, **changes)  # type: ignore[arg-type]
    return said(report_input(FILES, COLUMNS, ROWS, insights=insights, config=CONFIG))


def standing(connection: int, mean: float, **changes: object) -> Standing:
    values: dict[str, object] = {
        "connection_id": connection,
        "scores": Estimate(9, mean, mean - 2, mean + 2),
        "against": None,
        "difference": None,
        "tied": False,
        "failed": 0,
        "without_score": 0,
        "without_result": 0,
    }
    return Standing(**(values | changes))  # type: ignore[arg-type]


def apart(mean: float, p: float | None) -> Difference:
    return Difference(8, mean, mean - 1, mean + 1, p, 2.0)


def board(*standings: Standing, prompt: int | None = 1, **changes: object) -> PromptLeaderboard:
    return PromptLeaderboard(prompt, standings, **changes)  # type: ignore[arg-type]


def priced(amount: float, cells: int = 10, seconds: float = 2.0, currency: str = "USD") -> ColumnUsage:
    """What evaluations used that cost an amount together."""
    time = ProcessingTime(cells, seconds, seconds)
    return ColumnUsage(cells, Total(1_200, cells), Total(90, cells), time, Cost(amount, currency, cells, 0))


def test_a_mean_of_one_value_has_no_interval() -> None:
    alone = standing(1, 50.0, scores=Estimate(1, 50.0, None, None))
    assert "50 no interval, n = 1" in said_of(leaderboards=[board(alone)])


def test_the_verdict_and_the_leaderboard_say_that_there_is_no_clear_winner() -> None:
    leader = standing(1, 80.0, against=2, difference=apart(1.0, 0.4))
    tied = standing(2, 79.0, against=1, difference=apart(-1.0, 0.4), tied=True)
    text = said_of(leaderboards=[board(leader, tied)])
    assert "for prompt-1 model-1 or model-2 no clear winner For prompt-1" in text
    assert "there is no clear winner between model-1 and model-2" in text
    assert "a model that scores higher may only be more generous" in text
    assert "1 model-1 80 78 to 82, n = 9 1.0 higher than model-2 0 to 2.0 higher; p = 0.4; n = 8" in text
    assert (
        "2 model-2 79 77 to 81, n = 9 1.0 lower than model-1 no clear winner 0 to 2.0 lower; p = 0.4; n = 8"
        in text
    )


def test_a_difference_says_against_whom_how_certain_and_over_how_many() -> None:
    leader = standing(1, 80.0, against=2, difference=apart(20.0, 0.0001))
    text = said_of(
        leaderboards=[board(leader, standing(2, 60.0, against=1, difference=apart(-20.0, 0.0001)))]
    )
    assert "for prompt-1 model-1 gives the highest scores For prompt-1" in text
    assert "20.0 lower than model-1 19.0 to 21.0 lower; p < 0.001; n = 8" in text
    assert "no clear winner" not in text


def test_equal_models_are_said_to_be_equal() -> None:
    same = Difference(8, 0.0, None, None, None, None)
    text = said_of(
        leaderboards=[
            board(
                standing(1, 50.0, against=2, difference=same),
                standing(2, 50.0, against=1, difference=same, tied=True),
            )
        ]
    )
    assert "equal to model-2 n = 8" in text
    assert "equal to model-1 no clear winner n = 8" in text


def test_one_model_alone_has_no_place_and_no_difference() -> None:
    text = said_of(leaderboards=[board(standing(1, 80.0))])
    assert "model-1 alone: the mean score of its documents" in text
    for words in ("Place", "Difference", "no clear winner"):
        assert words not in text


def test_no_mean_over_competing_models_or_prompts_is_on_the_page() -> None:
    text = said_of(scores=Estimate(4, 16.525, 12.25, 20.75))
    assert "16.5" not in text
    assert "12.2" not in text


def test_the_leaderboard_says_what_is_not_in_a_mean_and_why() -> None:
    entry = standing(1, 80.0, failed=3, without_score=2, without_result=1)
    text = said_of(leaderboards=[board(entry, standing(2, 70.0, scores=None, failed=9))])
    assert "3 failed, 2 without a score, 1 without a result" in text
    assert "– model-2 no scores unknown – – in – out 9 failed" in text


def test_models_without_a_document_in_common_are_tied_and_not_compared() -> None:
    text = said_of(leaderboards=[board(standing(1, 80.0), standing(2, 70.0, tied=True))])
    assert "no clear winner no shared documents" in text


def test_models_that_did_not_score_the_same_documents_are_marked() -> None:
    standings = standing(1, 80.0), standing(2, 70.0)
    words = "not all scored the same documents, so that differences and means need not agree"
    assert words in said_of(leaderboards=[board(*standings, is_same_documents=False)])
    assert words not in said_of(leaderboards=[board(*standings)])


def test_price_speed_and_tokens_stand_beside_each_model() -> None:
    standings = standing(1, 80.0, usage=priced(1.5)), standing(2, 70.0)
    text = said_of(leaderboards=[board(*standings)])
    assert "150.00 USD 1.50 USD in all 2.0 s 1,200 in 90 out none" in text
    assert "no shared documents unknown – – in – out none" in text


def test_a_partly_known_cost_says_how_much_is_unknown() -> None:
    usage = ColumnUsage(5, cost=Cost(0.00008, "USD", 2, 3))
    text = said_of(leaderboards=[board(standing(1, 80.0, usage=usage), standing(2, 70.0))])
    assert "0.04 USD 0.00008 USD in all unknown for 3" in text


def test_a_model_whose_results_are_all_reused_costs_nothing_here() -> None:
    sums = ResultSums(CellCounts(succeeded=2, reused=2))
    data = report_input(
        FILES,
        COLUMNS,
        [],
        column_sums={(1, 1): sums},
        total=sums,
        insights=replace(NOTHING, leaderboards=[board(standing(1, 80.0), standing(2, 70.0))]),
    )
    text = said(data)
    assert "no shared documents 0 all reused" in text
    assert "no shared documents unknown" in text


def test_a_free_model_is_free_and_not_unknown() -> None:
    text = said_of(leaderboards=[board(standing(1, 80.0, usage=priced(0.0)), standing(2, 70.0))])
    assert "free 2.0 s" in text


@pytest.mark.parametrize(
    ("conclusion", "more", "words"),
    [
        (Conclusion.NO_WORSE, None, "shown to be no worse (margin 3); saves 90.00 USD per 1,000 documents"),
        (Conclusion.WORSE, None, "shown to be worse (margin 3); saves 90.00 USD"),
        (Conclusion.UNKNOWN, 40, "cannot tell (margin 3): about 40 more documents would settle it; saves"),
        (Conclusion.UNKNOWN, 1, "cannot tell (margin 3): about 1 more document would settle it; saves"),
        (Conclusion.UNKNOWN, None, "cannot tell (margin 3); saves 90.00 USD"),
    ],
)
def test_a_margin_says_what_is_shown_and_what_the_cheaper_model_saves(
    conclusion: Conclusion, more: int | None, words: str
) -> None:
    leader = standing(1, 80.0, usage=priced(1.0, seconds=4.0))
    other = standing(
        2,
        79.0,
        against=1,
        difference=apart(-1.0, 0.2),
        usage=priced(0.1),
        margin_test=MarginTest(3.0, conclusion, more),
    )
    text = said_of(leaderboards=[board(leader, other)], margin=3.0)
    assert words in text
    assert "per 1,000 documents and takes 2.0 s instead of 4.0 s" in text
    assert "Margin 3: a cheaper or faster model counts as no worse" in text


def test_amounts_of_two_currencies_are_not_compared() -> None:
    leader = standing(1, 80.0, usage=priced(1.0, currency="EUR"))
    other = standing(
        2, 79.0, against=1, usage=priced(0.1), margin_test=MarginTest(3.0, Conclusion.NO_WORSE, None)
    )
    assert "saves" not in said_of(leaderboards=[board(leader, other)], margin=3.0)


def test_the_overall_ranking_comes_first_and_says_its_weights() -> None:
    text = said_of(
        leaderboards=[board(standing(1, 80.0), standing(2, 70.0))],
        overall=board(standing(2, 75.0), standing(1, 74.0), prompt=None, weights=((1, 2.0), (2, 0.5))),
    )
    assert "Overall 70 75 80 weighted mean of each document: prompt-1 weighs 2, prompt 2 weighs 0.5" in text
    assert text.index("weighted mean of each document") < text.index("1 model-1 80")


def below(**changes: object) -> BelowThreshold:
    values: dict[str, object] = {
        "prompt_id": 1,
        "threshold": 60.0,
        "documents": 2,
        "scored": 17,
        "by_connection": ((1, 2), (2, 0)),
        "lowest": (
            LowDocument("file-1.pdf", 1, ((1, 11.0), (2, 12.0))),
            LowDocument("far.pdf", 99, ((1, 59.96),)),
        ),
        "near": (),
        "all_near": 0,
    }
    return BelowThreshold(**(values | changes))  # type: ignore[arg-type]


def test_documents_below_a_threshold_are_listed_with_the_score_of_each_model() -> None:
    text = said_of(below_thresholds=[below()])
    assert "2 documents fall below 60 for prompt-1" in text
    assert "By at least one model, of 17 documents with a score. model-1 : 2, model-2 : 0" in text
    assert "file-1.pdf 11 12" in text
    # Not 60, which would not be below.
    assert "far.pdf 59.96 –" in text


def test_a_low_score_opens_its_cell_if_the_page_has_it() -> None:
    insights = replace(NOTHING, below_thresholds=[below()])
    page = Page(render(report_input(FILES, COLUMNS, ROWS, insights=insights)))
    assert page.values("popovertarget").count("r1-1-1") == 3
    assert_inert(page)


def test_a_threshold_that_no_document_falls_below_is_said() -> None:
    text = said_of(below_thresholds=[below(documents=0, lowest=())])
    assert "No document falls below 60 for prompt-1" in text


def test_low_documents_and_close_scores_that_are_not_listed_are_counted() -> None:
    near = NearScore("file-2.pdf", 2, 1, 61.0, Estimate(3, 60.0, 58.0, 62.0))
    text = said_of(below_thresholds=[below(documents=52, near=(near,), all_near=4)])
    assert "50 further ones are not listed here; doceval export contracts-q4" in text
    assert "4 scores are within 5 points of 60" in text
    assert "file-2.pdf · model-1 61 mean of 3 attempts 60, 58 to 62 and 3 more" in text


def test_prompts_without_a_threshold_have_no_section() -> None:
    text = said_of()
    assert "threshold" not in text


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
    text = said_of(costs=[Cost(12.5, "USD", 3, 3), Cost(0.0012, "EUR", 1, 3)])
    assert "12.50 USD for 3 evaluations 0.0012 EUR for 1 evaluation; 3 more have an unknown cost" in text


@pytest.mark.parametrize("costs", [[], [Cost(0.0, "USD", 0, 4)]])
def test_a_cost_of_nothing_priced_is_unknown_and_not_0(costs: list[Cost]) -> None:
    assert "Cost of this batch unknown no price is known, or no tokens were reported" in said_of(costs=costs)


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
        "47 evaluations at attempt 1, 1 evaluation at attempt 2",
        "4 documents were stored before this batch",
        "encoded_documents, queue_rows 0badcafe-1f2e-4d3c-8b9a-0123456789ab",
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


def test_long_lists_say_how_much_they_leave_out() -> None:
    data = batch(3, 2, 1)
    previous, throughput = data.insights.previous, data.insights.counts.throughput
    assert previous is not None
    assert throughput is not None
    insights = replace(
        data.insights,
        agreements=[],
        previous=replace(previous, shared_columns=30),
        counts=replace(data.insights.counts, throughput=replace(throughput, all_stalls=40)),
    )
    text = said(replace(data, insights=insights))
    assert "Only the best 2 of 30 models and prompts that both batches have are compared." in text
    assert (
        "40 stalls, framed above: nothing finished although work was left. Only the longest are shown."
        in text
    )


def test_connections_that_are_in_no_pair_are_counted() -> None:
    ranked = board(*(standing(number, 80.0 - number) for number in (1, 2, 3)))
    text = said_of(leaderboards=[ranked], agreements=[Agreement(1, 2, 9, 0.5, 3.0, 9)])
    assert "1 more model has scores but no pair here" in text


def test_many_prompts_are_folded_after_the_first() -> None:
    open_sentences, rest = render(REPORTS["many-prompts"]()).split("45 more prompts")
    assert "For criterion-05, " in open_sentences
    assert "For criterion-06, " in rest
    open_boards, folded_boards = rest.split('id="leaderboard"')[1].split("42 more prompts")
    assert "<bdi>criterion-08</bdi>" in open_boards
    assert "<bdi>criterion-09</bdi>" in folded_boards
    assert "<bdi>criterion-09</bdi>" not in open_boards


def test_a_group_of_failures_says_how_many_messages_it_has() -> None:
    rows = [failed(1, "retry after 20 s"), failed(2, "retry after 21 s")]
    assert "The most frequent message; 1 other differs only in numbers, ids or names." in said(
        report_input(FILES, [column()], rows)
    )
