"""What Dagster's UI and the page show of the leaderboard."""

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from doceval_pipeline.domain.findings import Difference, Estimate
from doceval_pipeline.domain.leaderboard import Board, LeaderboardRow
from doceval_pipeline.domain.usage import Cost
from doceval_pipeline.reports.interval_plot import PLOT_LIMIT
from doceval_pipeline.reports.leaderboard import (
    BOARDS_IN_DAGSTER,
    MEANS_IN_DAGSTER,
    NO_COMMON_DOCUMENT,
    ROWS_IN_DAGSTER,
    Leaderboard,
    board_sentence,
    cost_per_text,
    cost_text,
    leaderboard_data,
    leaderboard_numbers,
    render_leaderboard,
)
from doceval_pipeline.reports.leaderboard_page import BOARDS_SHOWN, ROWS_SHOWN, render_leaderboard_page
from doceval_pipeline.reports.leaderboard_plot import draw_leaderboard

SCORED = Estimate(14, 70.0, 60.0, 80.0)
HIGHER = Difference(8, 6.0, 2.0, 10.0, 0.001, 4.0)
COLUMNS = 16


def row(name: str = "gpt", scores: Estimate | None = None, **values: Any) -> LeaderboardRow:
    return LeaderboardRow(
        **{
            "connection_id": 1,
            "prompt_id": 1,
            "connection": name,
            "prompt": "clarity",
            "batches": 2,
            "documents": 8,
            "cells": 16,
            "succeeded": 14,
            "failed": 2,
            "failed_documents": 1,
            "scored": 0 if scores is None else scores.n,
            "scored_documents": 8,
            "scored_clusters": 8,
            "mean": None if scores is None else scores.mean,
            "spread": None,
            "scores": scores,
            "input_tokens": 1_000,
            "output_tokens": None,
            "median_seconds": 1.5,
            **values,
        }
    )


def board(*rows: LeaderboardRow, prompt: str = "clarity", simulated: bool = False) -> Board:
    """A board whose rows have connection ids in their order."""
    numbered = [replace(each, connection_id=at, prompt=prompt) for at, each in enumerate(rows, start=1)]
    return Board(1, prompt, simulated, [replace(each, is_simulated=simulated) for each in numbered])


def leaderboard(*boards: Board) -> Leaderboard:
    return Leaderboard(boards, 2, 1, "d", "model")


def compared(difference: Difference, **values: Any) -> Board:
    """A leader and a second one, with the difference of the leader to the second."""
    opposite = replace(
        difference,
        mean=-difference.mean,
        low=None if difference.high is None else -difference.high,
        high=None if difference.low is None else -difference.low,
    )
    return board(
        row("gpt", SCORED, is_leader=True, against=2, difference=difference, **values),
        row("llama", replace(SCORED, mean=64.0, low=50.0, high=78.0), against=1, difference=opposite),
    )


def html_of(text: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(text)


def test_a_row_shows_mean_difference_failures_cost_and_time() -> None:
    costs = (Cost(2.8, "EUR", 14, 2),)
    shown = render_leaderboard(leaderboard(compared(HIGHER, costs=costs)))
    first, second = (line for line in shown.splitlines() if line.startswith(("| 1 ", "| 2 ")))
    assert first == (
        "| 1 | gpt | 70 | 60 to 80 | 14 of 16 | +6 (+2 to +10), p = 0.001 | llama | 8 | 2 (12.5%) "
        "| 2.80 EUR and 2 without a price | 200.00 EUR | 1.5 s | 1,000 | – | 8 | 2 |"
    )
    assert second.startswith("| 2 | llama | 64 | 50 to 78 | 14 of 16 | −6 (−10 to −2), p = 0.001 | gpt | 8 |")
    assert "| unknown | unknown |" in second
    assert "| failed | cost | cost per 1,000 documents | p50 time |" in shown
    assert "{" not in shown
    assert "**2 batches**; 1 left out" in shown
    assert "SIMULATED" not in shown
    assert "was edited between batches is one row" in shown
    assert "may only be more generous" in shown


def test_the_sentence_of_a_board_names_the_leader_and_the_documents_that_both_scored() -> None:
    sentence = board_sentence(compared(HIGHER))
    assert sentence.startswith(
        "For clarity, gpt scores 6 points higher than llama on the 8 documents both scored"
    )
    assert "gpt failed on 2 evaluations" in sentence
    assert board_sentence(replace(compared(HIGHER), is_simulated=True)) == sentence, "its rows are real"
    tied = board_sentence(compared(Difference(8, 1.0, -2.0, 4.0, 0.5, 4.0)))
    assert "there is no clear winner between gpt and llama" in tied


def test_a_leader_that_scores_lower_on_the_same_documents_is_not_said_to_win() -> None:
    lower = Difference(8, -6.0, -10.0, -2.0, 0.001, 4.0)
    assert board_sentence(compared(lower)) == (
        "For clarity, gpt has the highest mean, but llama scores 6 points higher than gpt on the 8 documents "
        "both scored: the means cover different documents."
    )


def test_a_row_that_shares_no_document_with_the_leader_is_marked() -> None:
    apart = board(row("gpt", SCORED, is_leader=True, against=2), row("llama", SCORED, against=1))
    shown = render_leaderboard(leaderboard(apart))
    assert shown.count(NO_COMMON_DOCUMENT) == 1
    assert "no document was scored by both" in board_sentence(apart)
    assert NO_COMMON_DOCUMENT in render_leaderboard_page(leaderboard(apart))


@pytest.mark.parametrize(
    ("costs", "total", "each"),
    [
        ((), "unknown", "unknown"),
        ((Cost(0.0, "EUR", 4, 0),), "free", "free"),
        ((Cost(2.0, "EUR", 4, 0),), "2.00 EUR", "500.00 EUR"),
        ((Cost(2.0, "EUR", 4, 0), Cost(3.0, "USD", 4, 0)), "2.00 EUR, 3.00 USD", "two currencies"),
        ((Cost(2.0, "EUR", 4, 3),), "2.00 EUR and 3 without a price", "500.00 EUR"),
    ],
)
def test_costs_are_unknown_free_or_amounts_by_currency(costs: Sequence[Cost], total: str, each: str) -> None:
    assert (cost_text(costs), cost_per_text(costs)) == (total, each)


def test_real_and_simulated_results_are_on_boards_of_their_own() -> None:
    both = leaderboard(
        compared(HIGHER), board(row("gpt", replace(SCORED, mean=99.0), is_leader=True), simulated=True)
    )
    shown = render_leaderboard(both)
    real, simulated = shown.split("### clarity")[1:]
    assert "SIMULATED" not in real
    assert simulated.startswith(" · **SIMULATED: no LLM was called**")
    assert "| 1 | gpt | 99 |" in simulated
    assert "99" not in real
    assert "never on one board" in shown
    page = render_leaderboard_page(both)
    assert page.index("<strong>70</strong>") < page.index("Simulated results: no LLM") < page.index(">99<")
    assert "<title>Leaderboard" in page
    assert "<title>SIMULATED" in render_leaderboard_page(leaderboard(both.boards[1]))
    data = leaderboard_data(both)
    assert [each["simulated"] for each in data["boards"]] == [False, True]


def test_omitted_boards_and_rows_are_counted() -> None:
    rows = [row(str(n), SCORED) for n in range(ROWS_SHOWN + 2)]
    many = leaderboard(*[board(*rows)] * (BOARDS_SHOWN + 1))
    shown, page = render_leaderboard(many), render_leaderboard_page(many)
    assert f"{ROWS_SHOWN + 2 - ROWS_IN_DAGSTER} more rows are not shown here" in shown
    assert f"{BOARDS_SHOWN + 1 - BOARDS_IN_DAGSTER} more boards are not shown here" in shown
    assert "2 more rows are not shown" in page
    assert "1 more board is not shown" in page
    empty = Leaderboard((), 0, 0, "none")
    assert "No batch is completed yet" in render_leaderboard(empty)
    assert "No batch is completed yet" in render_leaderboard_page(empty)


def test_no_mean_over_models_or_prompts_is_shown_to_people() -> None:
    boards = leaderboard(
        board(
            row("a", Estimate(1, 91.4, None, None), is_leader=True), row("b", Estimate(1, 31.2, None, None))
        ),
        board(row("a", Estimate(1, 55.0, None, None), is_leader=True), prompt="tone"),
    )
    for shown in (render_leaderboard(boards), render_leaderboard_page(boards)):
        assert "91.4" in shown
        assert "59.2" not in shown, "the mean of all"
        assert "61.3" not in shown, "the mean of a board"
    assert leaderboard_numbers(boards)["mean_score"] == pytest.approx(59.2)


def test_the_names_of_the_numbers_are_stable_and_bounded() -> None:
    numbers = leaderboard_numbers(
        leaderboard(board(row(scores=SCORED), row()), board(row(scores=SCORED), simulated=True))
    )
    assert numbers == {
        "batches": 2,
        "batches_left_out": 1,
        "boards": 2,
        "rows": 3,
        "cells": 48,
        "cells_succeeded": 42,
        "cells_failed": 6,
        "cells_scored": 28,
        "cells_simulated": 16,
        "cells_reused": 0,
        "mean_score": 70.0,
        "mean_score_prompt_1_connection_1": 70.0,
        "mean_score_prompt_1_connection_1_simulated": 70.0,
    }
    assert "mean_score" not in leaderboard_numbers(leaderboard(board(row())))
    many = leaderboard_numbers(leaderboard(board(*[row(scores=SCORED)] * (MEANS_IN_DAGSTER + 9))))
    assert sum("_connection_" in name for name in many) == MEANS_IN_DAGSTER


def texts_of(plot: str | None) -> tuple[list[str], int]:
    """The texts of a plot, and the number of its lines."""
    assert plot is not None
    assert len(plot) < PLOT_LIMIT
    match = re.fullmatch(r"!\[[a-z ]+\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", plot)
    assert match is not None
    drawn = ElementTree.fromstring(base64.b64decode(match[1]))
    assert {element.tag.partition("}")[2] for element in drawn} <= {"path", "text"}
    return [element.text or "" for element in drawn if element.tag.endswith("text")], drawn[1].get(
        "d", ""
    ).count("M")


SCORES = st.floats(0, 100).map(lambda mean: Estimate(10**9, mean, max(0.0, mean - 9), min(100.0, mean + 9)))
ONE_SCORE = Estimate(1, 100.0, None, None)


@given(
    st.lists(
        st.tuples(st.text(max_size=250), st.lists(SCORES | st.just(ONE_SCORE), min_size=1, max_size=30)),
        min_size=1,
        max_size=20,
    )
)
def test_the_plot_names_its_lines_and_counts_the_others_whatever_names_hold(
    boards: list[tuple[str, list[Estimate]]],
) -> None:
    texts, lines = texts_of(
        draw_leaderboard(
            leaderboard(
                *(board(*(row(name, each) for each in scores), prompt=name) for name, scores in boards)
            )
        )
    )
    total = sum(len(scores) for _, scores in boards)
    prompts = sum(text.endswith(":") for text in texts)
    assert lines >= 1
    assert lines == total or f"{total - lines:,} more in the table" in texts[-1]
    assert lines + 1 < len(texts) <= 2 * lines + 1
    assert prompts >= 1


def test_the_plot_has_the_best_of_each_prompt_under_its_name() -> None:
    names = [f"a connection number {n}" for n in range(9)]
    boards = [
        board(*(row(name, SCORED) for name in names), prompt=prompt) for prompt in ("<b>", "tone & style")
    ]
    texts, lines = texts_of(draw_leaderboard(leaderboard(*boards)))
    assert lines >= 4
    assert [text for text in texts if text.endswith(":")] == ["<b>:", "tone & style:"]
    assert texts[1] == "a connection n… 70"
    assert texts[-1] == f"0 to 100, {18 - lines} more in the table"


def test_real_and_simulated_results_have_plots_of_their_own() -> None:
    real, invented = board(row("real", SCORED)), board(row("invented", SCORED), simulated=True)
    texts, lines = texts_of(draw_leaderboard(leaderboard(real, invented)))
    assert (texts, lines) == (["clarity:", "real 70", "0 to 100"], 1)
    texts, _ = texts_of(draw_leaderboard(leaderboard(real, invented), simulated=True))
    assert texts == ["clarity:", "invented 70", "SIMULATED, 0 to 100"]
    assert draw_leaderboard(leaderboard(invented)) is None
    assert draw_leaderboard(leaderboard(board(row()))) is None


@given(st.text(max_size=40))
def test_a_name_is_only_text_in_its_cell(name: str) -> None:
    costs = (Cost(1.0, name, 1, 0),)
    shown = render_leaderboard(leaderboard(board(row(name, SCORED, costs=costs), prompt=name)))
    html = html_of(shown)
    assert len(re.findall(r"<td", html)) == COLUMNS
    assert not re.search(r"<(a|img|code|em|script)\b", html)
    assert html.count("<h3>") == 1


def test_a_hostile_name_is_only_text() -> None:
    name = "|![x](http://evil/)<script>`a`\n|www.evil.com\u202e"
    costs = (Cost(1.0, name, 1, 0),)
    hostile = leaderboard(board(row(name, SCORED, costs=costs, is_leader=True), row(name), prompt=name))
    html = html_of(render_leaderboard(hostile))
    assert len(re.findall(r"<td", html)) == 2 * COLUMNS
    assert "<script" not in html
    assert "<img" not in html
    page = render_leaderboard_page(hostile)
    assert "<script" not in page
    assert "\u202e" not in page
    assert "http://evil" not in re.sub(r"\[x\]\(http://evil/\)&lt;script&gt;", "", page)
