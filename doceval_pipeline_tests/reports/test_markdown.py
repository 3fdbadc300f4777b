"""What Dagster's UI shows of a report."""

import base64
import re
from dataclasses import replace
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from doceval_pipeline.domain.usage import Cost
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.markdown import numeric_metadata, plot_markdown, render_markdown
from doceval_pipeline.reports.model import ReportColumn, ReportFigures
from doceval_pipeline_tests.reports.reference_model import Row
from doceval_pipeline_tests.reports.sample_reports import (
    HOSTILE,
    cell,
    column,
    document,
    failed,
    hostile_input,
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


def test_the_markdown_says_verdict_counts_and_means() -> None:
    text = render_markdown(mixed())
    assert text.startswith(
        "**Incomplete: 4 of 6 evaluations have no result yet (1 waiting, 3 missing); 1 failed**"
    )
    assert "| mean score | 0, over 1 of 6 evaluations |" in text
    assert "| model-1 | prompt-1 | 0 | – | 1 of 3 | 1 | leads |" in text
    assert "| model-2 | prompt-1 | – | – | 0 of 3 | 0 | – |" in text
    assert "| time per evaluation | median 1.0 s, 95th percentile 1.0 s, of 1 evaluation |" in text
    assert "| cost | unknown |" in text
    assert "| files | 4, with 1 duplicate that shares results |" in text


def test_the_best_column_is_first_and_ties_with_it_are_marked() -> None:
    files = [document(n) for n in range(30)]
    low = [cell(n, 1, score=10.0 + n % 3) for n in range(30)]
    high = [cell(n, 2, score=80.0 + n % 3) for n in range(30)]
    near = [cell(n, 3, score=80.0 + (n + 1) % 3 - (n == 0)) for n in range(30)]
    text = render_markdown(
        figures(with_insights(files, [column(n) for n in (1, 2, 3)], [*low, *high, *near]))
    )
    rows = [line for line in text.splitlines() if line.startswith("| model-")]
    assert [row.split(" | ")[0] for row in rows] == ["| model-2", "| model-3", "| model-1"]
    assert rows[0].endswith("| 81 | 80.7 to 81.3 | 30 of 30 | 0 | leads |")
    assert rows[1].endswith("| tied (-0.0 over 30) |")
    assert rows[2].endswith("| -70.0 over 30 |")


def test_the_markdown_and_the_plot_say_that_results_are_simulated() -> None:
    simulated = mixed(simulated=True)
    assert "**Simulated results: no LLM was called** for 3 evaluations." in render_markdown(simulated)
    assert plot_markdown(simulated).startswith("![simulated scores")
    assert ">SIMULATED: 1 ok" in svg_of(plot_markdown(simulated))
    partly = figures(report_input([], [], [cell(1), cell(2, simulated=True)]))
    assert ">PARTLY SIMULATED: 2 ok" in svg_of(plot_markdown(partly))
    assert "imulated" not in render_markdown(mixed()) + svg_of(plot_markdown(mixed()))


def test_the_table_says_how_many_columns_it_leaves_out() -> None:
    text = render_markdown(figures(with_insights([], [column(1, n) for n in range(25)], [])))
    assert text.count("| model-1 |") == 20
    assert "5 more columns are in the report." in text


def test_hostile_names_are_only_text_in_the_markdown() -> None:
    hostile = hostile_input()
    columns = [ReportColumn(n, text, n, text) for n, text in enumerate(HOSTILE)]
    text = render_markdown(figures(replace(hostile, insights=with_insights((), columns, ()).insights)))
    page = MarkdownIt("commonmark").enable("table").render(text)
    elements = set(re.findall(r"<([a-zA-Z]+)", page))
    assert elements == {"p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    assert len(re.findall("<tr>", page)) == 2 + 9 + 12


def test_no_file_name_and_no_response_is_in_the_markdown() -> None:
    data = with_insights(
        [document(1, name="FILENAME", folder="FOLDER")],
        [column()],
        [cell(1, response_text="RESPONSE"), failed(1, "MESSAGE", prompt=2)],
    )
    text = render_markdown(figures(data)) + plot_markdown(figures(data))
    assert not any(word in text for word in ("FILENAME", "FOLDER", "RESPONSE", "MESSAGE"))


MANY = st.builds(
    lambda counts, simulated: [cell(n, score=score, simulated=simulated) for n, score in enumerate(counts)],
    st.lists(st.none() | st.floats(0, 100), max_size=40),
    st.booleans(),
)


@given(cells=MANY, expected=st.integers(0, 10**12))
def test_the_plot_is_short_enough_to_be_drawn_and_well_formed(cells: list[Row], expected: int) -> None:
    plot = plot_markdown(figures(report_input([], [], cells, expected_cells=expected)))
    assert len(plot) < 1_000
    ElementTree.fromstring(svg_of(plot))


def test_the_longest_plot_is_short_enough_to_be_drawn() -> None:
    cells = [cell(n, score=n / 2.0, simulated=True) for n in range(200)]
    cells += [failed(n, simulated=True) for n in range(200, 400)]
    assert len(plot_markdown(figures(report_input([], [], cells, expected_cells=10**12)))) < 1_000


def test_a_share_that_is_small_is_still_drawn() -> None:
    cells = [cell(n) for n in range(1_000)] + [failed(1_000)]
    assert 'fill="#d1602a"' in svg_of(plot_markdown(figures(report_input([], [], cells))))


def test_a_batch_without_cells_still_has_a_plot() -> None:
    assert "0 ok, 0 failed, 0 open" in svg_of(plot_markdown(figures(report_input())))
