"""What Dagster's UI shows of the leaderboard."""

import base64
import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from doceval_pipeline.domain.findings import Estimate
from doceval_pipeline.domain.leaderboard import LeaderboardRow
from doceval_pipeline.reports.leaderboard import (
    PLOT_LIMIT,
    ROWS_SHOWN,
    Leaderboard,
    draw_leaderboard,
    leaderboard_numbers,
    render_leaderboard,
)


def row(name: str = "gpt", scores: Estimate | None = None, simulated: int = 0) -> LeaderboardRow:
    return LeaderboardRow(
        connection_id=1,
        prompt_id=1,
        connection=name,
        prompt="clarity",
        batches=2,
        documents=8,
        cells=16,
        succeeded=14,
        failed=2,
        simulated=simulated,
        scored=0 if scores is None else scores.n,
        scored_documents=8,
        mean=None if scores is None else scores.mean,
        spread=None,
        scores=scores,
        input_tokens=1_000,
        output_tokens=None,
        median_seconds=1.5,
    )


def board(*rows: LeaderboardRow) -> Leaderboard:
    return Leaderboard(rows, 2, 1, "d")


def test_a_row_shows_how_much_it_is_based_on() -> None:
    shown = render_leaderboard(board(row(scores=Estimate(14, 70.0, 60.0, 80.0)), row("other")))
    first, second = shown.splitlines()[-2:]
    assert first == (
        "| 1 | gpt | clarity | 70 | 60 to 80 | 14 of 16 | 8 | 2 | 2 (12.5%) | 1,000 | – | 1.5 s |"
    )
    assert second.startswith("| 2 | other | clarity | – | – | 0 of 16 |")
    assert "**2 batches**; 1 left out" in shown
    assert "Rows may cover different documents" in shown
    assert "Simulated" not in shown


def test_simulated_results_and_omitted_rows_are_reported() -> None:
    shown = render_leaderboard(board(*[row(str(n), simulated=1) for n in range(ROWS_SHOWN + 2)]))
    assert f"no LLM was called** for {ROWS_SHOWN + 2} evaluations" in shown
    assert "2 more rows are not shown" in shown
    assert "No batch is completed yet" in render_leaderboard(Leaderboard((), 0, 0, "none"))


def test_the_names_of_the_numbers_are_stable() -> None:
    numbers = leaderboard_numbers(board(row(scores=Estimate(14, 70.0, 60.0, 80.0)), row()))
    assert numbers == {
        "batches": 2,
        "batches_left_out": 1,
        "rows": 2,
        "cells": 32,
        "cells_succeeded": 28,
        "cells_failed": 4,
        "cells_scored": 14,
        "cells_simulated": 0,
        "cells_reused": 0,
        "mean_score": 70.0,
    }
    assert "mean_score" not in leaderboard_numbers(board(row()))


SCORES = st.floats(0, 100).map(lambda mean: Estimate(10**9, mean, max(0.0, mean - 9), min(100.0, mean + 9)))


@given(st.lists(SCORES | st.just(Estimate(1, 100.0, None, None)) | st.none(), max_size=60))
def test_the_plot_is_an_image_that_dagster_draws(scores: list[Estimate | None]) -> None:
    plot = draw_leaderboard(board(*(row(scores=found) for found in scores)))
    assert len(plot) < PLOT_LIMIT
    match = re.fullmatch(r"!\[[a-z ]+\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", plot)
    assert match is not None
    ElementTree.fromstring(base64.b64decode(match[1]))


@given(st.text(max_size=250), st.integers(1, 30))
def test_the_plot_names_its_lines_whatever_names_hold(name: str, rows: int) -> None:
    plot = draw_leaderboard(board(*[row(name, Estimate(9, 50.0, 40.0, 60.0))] * rows))
    assert len(plot) < PLOT_LIMIT
    drawn = ElementTree.fromstring(base64.b64decode(plot.partition("base64,")[2][:-1]))
    kinds = [element.tag.partition("}")[2] for element in drawn]
    texts = [element.text for element in drawn if element.tag.endswith("text")]
    lines = drawn[1].get("d", "").count("M")
    assert set(kinds) == {"path", "text"}
    assert len(texts) == lines + 1
    assert lines >= min(rows, 4)
    assert lines == rows or f"{rows - lines} more in the table" in str(texts[-1])


def test_the_plot_labels_each_line() -> None:
    scores = Estimate(9, 50.0, 40.0, 60.0)
    plot = draw_leaderboard(board(row("<b>", scores), row("a connection of a long name", scores)))
    svg = base64.b64decode(plot.partition("base64,")[2][:-1]).decode()
    assert ">&lt;b&gt; · clarity</text>" in svg
    assert ">a connection of a lon…</text>" in svg


@given(st.text(max_size=40))
def test_a_name_is_only_text_in_its_cell(name: str) -> None:
    shown = render_leaderboard(board(row(name)))
    html = MarkdownIt("commonmark").enable("table").render(shown)
    assert len(re.findall(r"<td", html)) == 12
    assert not re.search(r"<(a|img|code|em|h\d|script)\b", html[html.index("<table") :])


def test_a_hostile_name_is_only_text() -> None:
    name = "|![x](http://evil/)<script>`a`\n|www.evil.com"
    html = MarkdownIt("commonmark").enable("table").render(render_leaderboard(board(row(name))))
    assert len(re.findall(r"<td", html)) == 12
    assert "<script" not in html
    assert "<img" not in html
