"""What Dagster's UI shows of a report."""

import base64
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.domain.insights import BelowThreshold
from doceval_pipeline.domain.usage import Cost
from doceval_pipeline.reports.decision import decisions
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.formatting import score_text
from doceval_pipeline.reports.markdown import (
    decision_text,
    numeric_metadata,
    plot_markdown,
    render_markdown,
)
from doceval_pipeline.reports.model import ReportColumn, ReportFigures, ReportInput
from doceval_pipeline.reports.phrases import GENEROUS
from doceval_pipeline.reports.sanitize import markdown_name
from doceval_pipeline_tests.reports.exports.records import any_text
from doceval_pipeline_tests.reports.sample_reports import (
    HOSTILE,
    cell,
    column,
    document,
    failed,
    hostile_input,
    leaderboards_of,
    report_input,
    skipped,
    with_insights,
)


def mixed(*, simulated: bool = False) -> ReportFigures:
    files = [document(1), document(1, name="twin.pdf"), document(2), document(3), skipped(".hidden")]
    cells = [
        cell(1, score=0.0, simulated=simulated),
        failed(2, simulated=simulated),
        failed(3, None, outcome="waiting", status="QUEUED", simulated=simulated),
    ]
    return figures(with_insights(files, [column(1), column(2)], cells))


def svg_of(plot: str) -> str:
    match = re.fullmatch(r"!\[[a-z ]+\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", plot)
    assert match is not None
    return base64.b64decode(match[1]).decode()


def test_the_names_of_the_numbers_are_stable() -> None:
    assert numeric_metadata(mixed()) == {
        "documents": 4,
        "documents_duplicate": 1,
        "files_not_staged": 0,
        "files_skipped": 1,
        "files_rejected": 0,
        "cells_expected": 6,
        "cells_succeeded": 1,
        "cells_failed": 1,
        "cells_waiting": 1,
        "cells_running": 0,
        "cells_paused": 0,
        "cells_unknown": 0,
        "cells_missing": 3,
        "cells_scored": 1,
        "cells_simulated": 0,
        "cells_reprocessed": 0,
        "cells_reused": 0,
        "contents_reused": 0,
        "content_bytes": 6_000,
        "mean_score": 0.0,
        "seconds_p50": 1.0,
        "seconds_p95": 1.0,
        "input_tokens": 100,
        "output_tokens": 10,
        "processing_seconds": 1.0,
        "mean_score · prompt-1 · model-1": 0.0,
    }


def test_unreported_values_are_absent_and_not_zero() -> None:
    numbers = numeric_metadata(figures(with_insights([document()], [column()], [failed()])))
    absent = {"mean_score", "mean_score_low", "mean_score_high", "input_tokens", "output_tokens"}
    assert not (absent | {"processing_seconds", "seconds_p50", "seconds_p95", "cost_usd"}) & set(numbers)


def test_interval_and_costs_are_numbers_too() -> None:
    cells = [cell(1, score=10.0), cell(2, score=30.0)]
    costs = [Cost(1.25, "EUR", 2, 0), Cost(0.5, "USD", 1, 1)]
    numbers = numeric_metadata(
        figures(with_insights([document(1), document(2)], [column()], cells, costs=costs))
    )
    assert (numbers["cost_eur"], numbers["cost_usd"]) == (1.25, 0.5)
    assert numbers["mean_score_low"] < numbers["mean_score"] == 20 < numbers["mean_score_high"]


def compared(**changes: Any) -> ReportFigures:
    """Two models under one prompt; prices of the first are known, and it scores 40 points higher."""
    files = [document(n) for n in range(30)]
    high = [cell(n, 1, score=80.0 + n % 3) for n in range(30)]
    low = [cell(n, 2, score=40.0 + (n + 1) % 3) for n in range(29)] + [failed(29, connection=2)]
    columns, cells = [column(1), column(2)], [*high, *low]
    prices = {1: Prices(input_per_million=10, output_per_million=0, currency="EUR")}
    boards = leaderboards_of(files, columns, cells, prices)
    return figures(with_insights(files, columns, cells, leaderboards=boards, **changes))


def test_each_model_has_its_score_and_its_cost_in_numbers_with_stable_names() -> None:
    below = BelowThreshold(1, 45, 12, 30, ((2, 12),), (), (), 0)
    numbers = numeric_metadata(compared(below_thresholds=[below]))
    assert {name: value for name, value in numbers.items() if "·" in name} == {
        "mean_score · prompt-1 · model-1": pytest.approx(81),
        "cost_eur · prompt-1 · model-1": pytest.approx(30 * 100 * 10 / 1e6),
        "mean_score · prompt-1 · model-2": pytest.approx(29 * 41 / 29, abs=0.1),
        "documents_below · prompt-1": 12,
    }


def test_numbers_of_models_are_bounded_and_none_replaces_another() -> None:
    names = ["same " * 20, "same " * 20 + "x", "a · b", "a"]
    columns = [ReportColumn(n, name, 1, "b · c") for n, name in enumerate(names)]
    columns += [ReportColumn(n, f"model-{n}", 1, "b · c") for n in range(4, 30)]
    cells = [cell(1, n, score=float(n)) for n in range(30)]
    numbers = numeric_metadata(figures(with_insights([document()], columns, cells)))
    of_models = [value for name, value in numbers.items() if name.startswith("mean_score · ")]
    assert of_models == [float(n) for n in range(20)]
    assert all(len(name) < 120 for name in numbers)


def test_the_markdown_says_verdict_decision_and_counts() -> None:
    shown = mixed()
    text = render_markdown(shown)
    assert text.startswith(
        "**Incomplete: 4 of 6 evaluations have no result yet (1 waiting, 3 missing); 1 failed**"
    )
    assert "| model-1 | 0 | – | – | – | – | unknown | unknown | 1.0 s | 1 |" in text
    assert "| model-2 | – | – | – | – | – | unknown | unknown | – | 0 |" in text
    assert "| time per evaluation | median 1.0 s, 95th percentile 1.0 s, of 1 evaluation |" in text
    assert "| cost | unknown |" in text
    assert "| scores | 1 of 6 evaluations |" in text
    assert "| files | 4, with 1 duplicate that shares results |" in text


def test_no_mean_over_models_is_in_the_text_and_the_plot() -> None:
    shown = compared()
    assert shown.sums.scores is not None
    mean = score_text(shown.sums.scores.mean)
    text = render_markdown(shown) + decision_text(shown) + svg_of(plot_markdown(shown))
    assert not re.search(rf"\b{re.escape(mean)}\b", text)
    assert numeric_metadata(shown)["mean_score"] == shown.sums.scores.mean


def test_each_model_is_compared_and_has_a_price_in_the_table_of_its_prompt() -> None:
    below = BelowThreshold(1, 45, 12, 30, ((2, 12),), (), (), 0)
    text = render_markdown(compared(below_thresholds=[below]))
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| model-")]
    assert [row[0] for row in rows] == ["| model-1", "| model-2"]
    assert re.fullmatch(r"[\d.]+ points higher than model-2", rows[0][3])
    assert re.fullmatch(r"[\d.]+ points lower than model-1", rows[1][3])
    assert [row[4] for row in rows] == ["29", "29"]
    assert [row[5] for row in rows] == ["< 0.001"] * 2
    assert rows[0][6:8] == ["0.03 EUR", "1.00 EUR"]
    assert rows[1][6:8] == ["unknown", "unknown"]
    assert [row[-2:] for row in rows] == [["0", "0 |"], ["1", "12 |"]]
    assert "For prompt-1&#44; 12 of 30 documents fall below 45." in text


def test_models_that_are_not_separated_are_marked_in_both_rows() -> None:
    files = [document(n) for n in range(9)]
    cells = [cell(n, c, score=50.0 + (n * c) % 5) for n in range(9) for c in (1, 2)]
    text = render_markdown(figures(with_insights(files, [column(1), column(2)], cells)))
    rows = [line for line in text.splitlines() if line.startswith("| model-")]
    assert all(", no clear winner | 9 |" in row for row in rows)


def test_the_decision_is_the_sentence_of_the_report_as_plain_text() -> None:
    shown = compared()
    sentence = decisions(shown)[0].sentence
    assert decision_text(shown).splitlines() == [sentence, GENEROUS]
    assert f"- {markdown_name(sentence, 2_000)}" in render_markdown(shown)


def test_without_a_score_nothing_is_said_about_scores() -> None:
    assert decision_text(figures(report_input())) == ""
    text = decision_text(figures(with_insights([document()], [column()], [failed()])))
    assert GENEROUS not in text


def test_the_markdown_and_the_plot_say_that_results_are_simulated() -> None:
    simulated = mixed(simulated=True)
    assert "**Simulated results: no LLM was called** for 3 evaluations." in render_markdown(simulated)
    assert plot_markdown(simulated).startswith("![simulated scores")
    assert ">SIMULATED: 1 ok" in svg_of(plot_markdown(simulated))
    partly = figures(report_input([], [], [cell(1), cell(2, simulated=True)]))
    assert ">PARTLY SIMULATED: 2 ok" in svg_of(plot_markdown(partly))
    assert "imulated" not in render_markdown(mixed()) + svg_of(plot_markdown(mixed()))


def test_the_tables_say_how_many_rows_they_leave_out() -> None:
    text = render_markdown(figures(with_insights([], [column(1, n) for n in range(25)], [])))
    assert text.count("| model-1 |") == 20
    assert "5 more rows are in the report." in text
    assert "5 more are in the report." in text


def test_hostile_names_are_only_text_in_the_markdown() -> None:
    hostile = hostile_input()
    columns = [ReportColumn(n, text, n, text) for n, text in enumerate(HOSTILE)]
    text = render_markdown(figures(replace(hostile, insights=with_insights((), columns, ()).insights)))
    page = MarkdownIt("commonmark").enable("table").render(text)
    elements = set(re.findall(r"<([a-zA-Z]+)", page))
    assert elements == {"p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    # A table for each prompt with its head, and nine counts.
    assert len(re.findall("<tr>", page)) == 12 * 2 + 1 + 9


def test_no_file_name_and_no_response_is_in_the_markdown() -> None:
    data = with_insights(
        [document(1, name="FILENAME", folder="FOLDER")],
        [column()],
        [cell(1, response_text="RESPONSE"), failed(1, "MESSAGE", prompt=2)],
    )
    text = render_markdown(figures(data)) + plot_markdown(figures(data))
    assert not any(word in text for word in ("FILENAME", "FOLDER", "RESPONSE", "MESSAGE"))


@st.composite
def scored(draw: st.DrawFn) -> ReportInput:
    """Any names and scores of up to four models under up to four prompts."""
    names = [draw(any_text) for _ in range(8)]
    keys = [(n, p) for n in range(draw(st.integers(1, 4))) for p in range(draw(st.integers(1, 4)))]
    columns = [ReportColumn(n, names[n], p, names[4 + p]) for n, p in keys]
    cells = [
        cell(document, n, p, score=draw(st.floats(0, 100)), simulated=draw(st.booleans()))
        for n, p in keys
        for document in range(draw(st.integers(0, 3)))
    ]
    expected = draw(st.integers(0, 10**12))
    return replace(with_insights([], columns, cells), expected_cells=expected)


@settings(deadline=None)
@given(scored())
def test_the_plot_is_short_enough_to_be_drawn_and_well_formed(data: ReportInput) -> None:
    plot = plot_markdown(figures(data))
    assert len(plot) < 1_000
    ElementTree.fromstring(svg_of(plot))


def texts_of(plot: str) -> list[str | None]:
    return [found.text for found in ElementTree.fromstring(svg_of(plot)).iter() if found.tag.endswith("text")]


def test_every_line_of_the_plot_has_its_name_and_mean_beside_it() -> None:
    columns = [column(n, p) for n in (1, 2) for p in (1, 2)]
    cells = [cell(d, n, p, score=10.0 * n + p) for d in range(3) for n in (1, 2) for p in (1, 2)]
    shown = figures(with_insights([document(n) for n in range(3)], columns, cells))
    assert texts_of(plot_markdown(shown)) == [
        *("prompt-1:", "model-2 21", "model-1 11", "prompt-2:", "model-2 22", "model-1 12"),
        "12 ok, 0 failed, 0 open",
    ]
    single = figures(with_insights([document(1)], columns[:2], [cell(1, 1, p) for p in (1, 2)]))
    assert texts_of(plot_markdown(single))[:2] == ["prompt-1 80", "prompt-2 80"]
    one = figures(with_insights([document(1)], columns[:1], [cell(1, 1, 1)]))
    assert texts_of(plot_markdown(one))[0] == "model-1 80"


def test_the_plot_says_how_many_models_it_leaves_out() -> None:
    columns = [column(n) for n in range(30)]
    plot = plot_markdown(figures(with_insights([document()], columns, [cell(1, n) for n in range(30)])))
    *names, caption = texts_of(plot)
    assert len(plot) < 1_000
    assert len(names) >= 6
    assert caption == f"30 ok, 0 failed, 0 open, {30 - len(names)} more in the report"


def test_a_share_that_is_small_is_still_drawn() -> None:
    cells = [failed(n) for n in range(1_000)] + [cell(1_000, score=None)]
    assert 'fill="#2a78b5"' in svg_of(plot_markdown(figures(report_input([], [], cells))))


def test_a_batch_without_cells_still_has_a_plot() -> None:
    assert "0 ok, 0 failed, 0 open" in svg_of(plot_markdown(figures(report_input())))
