"""The first two sheets of a workbook: what is decided, and the score of each document under each model."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import Workbook, load_workbook
from openpyxl.utils import get_column_letter

from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.domain.export_record import ExportRecord
from doceval_pipeline.domain.insights import BelowThreshold
from doceval_pipeline.reports.decision import decisions
from doceval_pipeline.reports.exports import document_scores, overview, xlsx
from doceval_pipeline.reports.exports.overview import NO_OVERVIEW, TITLES, Overview, overview_of
from doceval_pipeline.reports.exports.writing import Format, write_records
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.model import ReportColumn, ReportFigures
from doceval_pipeline.reports.phrases import GENEROUS
from doceval_pipeline_tests.reports.exports.records import HOSTILE, any_text, plain_record
from doceval_pipeline_tests.reports.sample_reports import (
    cell,
    column,
    document,
    failed,
    leaderboards_of,
    report_input,
    with_insights,
)

READ_AT = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)
COLUMNS = [column(1), column(2), column(1, 2)]
HEAD = ["file", "folder", "files", "below threshold"]


def workbook_of(
    folder: Path, records: Iterable[ExportRecord] = (), first: Overview = NO_OVERVIEW
) -> Workbook:
    path = folder / "export.xlsx"
    with path.open("wb") as file:
        write_records(file, Format.XLSX, records, {}, first)
    return load_workbook(path)


def compared() -> ReportFigures:
    """Two models under one prompt, with known prices of one of them and a threshold; one model failed."""
    files = [document(n) for n in range(1, 11)]
    cells = [cell(n, 1, score=80.0 + n) for n in range(1, 11)]
    cells += [cell(n, 2, score=40.0 + 2 * n) for n in range(1, 10)] + [failed(10, connection=2)]
    columns = [column(1), column(2)]
    prices = {1: Prices(input_per_million=10, output_per_million=0, currency="EUR")}
    below = BelowThreshold(1, 45, 2, 10, ((2, 2),), (), (), 0)
    return figures(
        with_insights(
            files,
            columns,
            cells,
            leaderboards=leaderboards_of(files, columns, cells, prices),
            below_thresholds=[below],
        )
    )


def table(sheet: Any) -> list[dict[str, Any]]:
    """The rows of the table of standings, by title."""
    names = [title for title, _ in TITLES]
    rows = [[cell.value for cell in row] for row in sheet.iter_rows(max_col=len(names))]
    head = rows.index(names)
    body = rows[head + 1 :]
    return [dict(zip(names, row, strict=True)) for row in body if row[1] is not None]


def test_the_summary_says_what_is_decided_and_gives_the_figures_of_each_model(tmp_path: Path) -> None:
    shown = compared()
    sheet = workbook_of(tmp_path, (), overview_of(shown, READ_AT))["summary"]
    texts = [row[0].value for row in sheet.iter_rows() if row[0].value]
    assert texts[0] == "contracts-q4"
    sentences = [decision.sentence for decision in decisions(shown)]
    assert set(texts) >= {*sentences, "For prompt-1, 2 of 10 documents fall below 45.", GENEROUS}
    first, second = table(sheet)
    (board,) = shown.insights.leaderboards
    leader, other = board.standings
    assert leader.scores is not None
    assert other.difference is not None
    assert (first["prompt"], first["model"], first["comparison"]) == ("prompt-1", "model-1", "highest")
    assert first["mean score"] == pytest.approx(leader.scores.mean)
    assert first["95 % from"] == pytest.approx(leader.scores.low)
    assert (first["cost"], first["currency"]) == (pytest.approx(10 * 100 * 10 / 1e6), "EUR")
    assert first["cost per document"] == pytest.approx(100 * 10 / 1e6)
    assert (first["median seconds"], first["input tokens"], first["documents below"]) == (1, 1_000, 0)
    assert (second["model"], second["against"], second["documents compared"]) == ("model-2", "model-1", 9)
    assert second["difference"] == pytest.approx(other.difference.mean)
    assert second["p"] == pytest.approx(other.difference.p)
    assert (second["failed"], second["documents below"], second["threshold"]) == (1, 2, 45)
    assert (second["cost"], second["currency"], second["without known cost"]) == (None, None, 10), "unknown"


def test_a_leader_that_is_not_separated_from_others_is_marked() -> None:
    cells = [cell(n, c, score=50.0 + (n * c) % 5) for n in range(9) for c in (1, 2)]
    shown = figures(with_insights([document(n) for n in range(9)], [column(1), column(2)], cells))
    assert [row[6] for row in overview_of(shown, READ_AT).standings] == [
        "highest, no clear winner",
        "no clear winner",
    ]
    alone = figures(with_insights([document()], [column()], [cell()]))
    assert [row[6] for row in overview_of(alone, READ_AT).standings] == ["only one"]


def test_the_summary_has_a_filter_and_number_formats(tmp_path: Path) -> None:
    sheet = workbook_of(tmp_path, (), overview_of(compared(), READ_AT))["summary"]
    (head,) = [row[0].row for row in sheet.iter_rows() if row[0].value == "prompt"]
    assert sheet.auto_filter.ref == f"A{head}:{get_column_letter(len(TITLES))}{head + 2}"
    for place, (_, text) in enumerate(TITLES, start=1):
        found = sheet.cell(head + 1, place)
        assert found.number_format == (text or "General") or found.value is None


def test_a_batch_without_results_has_a_summary_too(tmp_path: Path) -> None:
    sheet = workbook_of(tmp_path, (), overview_of(figures(report_input()), READ_AT))["summary"]
    assert sheet["A1"].value == "contracts-q4"
    assert table(sheet) == []


def test_long_summaries_say_what_they_leave_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "MOST_ROWS", 1)
    monkeypatch.setattr(overview, "SENTENCES_SHOWN", 1)
    sheet = workbook_of(tmp_path, (), overview_of(compared(), READ_AT))["summary"]
    texts = [row[0].value for row in sheet.iter_rows() if row[0].value]
    assert len(table(sheet)) == 1
    assert {"1 more rows are in the report.", "1 more are in the report."} <= set(texts)


def record(place: int, connection: int = 1, prompt: int = 1, **changes: Any) -> ExportRecord:
    """A result of document `place` with a score of 50."""
    values: dict[str, Any] = {
        "document_id": f"sha256:{place}",
        "file": f"file-{place}",
        "connection_id": connection,
        "prompt_id": prompt,
        "outcome": "succeeded",
        "score": 50.0,
        "threshold": None,
        "below_threshold": None,
    }
    return plain_record(**(values | changes))


def documents(folder: Path, records: Iterable[ExportRecord], columns: Sequence[ReportColumn]) -> Any:
    return workbook_of(folder, records, replace(NO_OVERVIEW, columns=columns))["documents"]


def test_a_document_has_one_row_with_its_scores_as_numbers_and_words_where_there_is_none(
    tmp_path: Path,
) -> None:
    records = [
        record(1, 1, threshold=60.0, below_threshold=True),
        record(1, 2, score=75.0, threshold=60.0, below_threshold=False),
        record(1, 1, 2, outcome="failed", score=10.0),
        record(2, 1, score=0.0, threshold=60.0, below_threshold=True),
        record(2, 2, score=None),
        record(2, 2, score=99.0, current=False),
        record(3, 1, outcome="waiting", score=None),
        record(3, 9),
    ]
    sheet = documents(tmp_path, records, COLUMNS)
    rows = [[cell.value for cell in row] for row in sheet.iter_rows()]
    titles = ["model-1 · prompt-1", "model-2 · prompt-1", "model-1 · prompt-2"]
    assert rows == [
        [*HEAD, *titles, "document_id"],
        ["file-1", "word", 1, 1, 50, 75, "failed", "sha256:1"],
        ["file-2", "word", 1, 1, 0, "no score", None, "sha256:2"],
        ["file-3", "word", 1, None, "waiting", None, None, "sha256:3"],
    ]
    coloured = {cell.coordinate for row in sheet.iter_rows(2) for cell in row if cell.fill.fill_type}
    assert coloured == {"E2", "E3"}
    assert (sheet.freeze_panes, sheet.auto_filter.ref) == ("B2", "A1:H4")
    assert sheet.column_dimensions["A"].width > 40


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_what_a_sheet_has_no_room_for_is_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(xlsx, "RECORDS_IN_A_SHEET", rows)
    monkeypatch.setattr(document_scores, "MOST_COLUMNS", 2)
    workbook = workbook_of(tmp_path, [record(n) for n in range(3)], replace(NO_OVERVIEW, columns=COLUMNS))
    assert workbook["documents"].max_row == 1 + rows
    assert workbook["documents"].max_column == len(HEAD) + 2 + 1
    texts = [row[0].value for row in workbook["summary"].iter_rows() if row[0].value]
    assert "Sheet documents has the first 2 of 3 models and prompts." in texts
    left = [text for text in texts if "no room" in text]
    assert left == ([f"Sheet documents has no room for {3 - rows} more documents."] if rows < 3 else [])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.none() | st.floats(0, 100)),
        unique_by=lambda cell: cell[:3],
    )
)
def test_every_score_is_in_its_row_and_column(
    tmp_path: Path, cells: list[tuple[int, int, int, float | None]]
) -> None:
    columns = [column(connection, prompt) for prompt in (1, 2) for connection in (1, 2, 3)]
    ordered = sorted(cells, key=lambda cell: cell[:3])
    sheet = documents(tmp_path, [record(d, c, p, score=s) for d, c, p, s in ordered], columns)
    found = {
        (row[-1].value, sheet.cell(1, cell.column).value, cell.value)
        for row in sheet.iter_rows(2)
        for cell in row[len(HEAD) : -1]
        if cell.value is not None
    }
    assert found == {
        (f"sha256:{d}", f"model-{c} · prompt-{p}", "no score" if s is None else float(f"{s:.16G}"))
        for d, c, p, s in cells
    }
    assert sheet.max_row == 1 + len([*groupby(ordered, key=lambda cell: cell[0])])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(any_text, min_size=2, max_size=2))
def test_no_name_is_a_formula_or_a_link(tmp_path: Path, names: list[str]) -> None:
    check_names(tmp_path, names)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_hostile_name_is_a_formula_or_a_link(tmp_path: Path, text: str) -> None:
    check_names(tmp_path, [text, text])


def check_names(folder: Path, names: Sequence[str]) -> None:
    columns = [ReportColumn(place, name, 1, names[0]) for place, name in enumerate(names, start=1)]
    cells = [cell(document_id, place) for place in (1, 2) for document_id in (1, 2, 3)]
    shown = figures(with_insights([document(n) for n in (1, 2, 3)], columns, cells))
    first = overview_of(replace(shown, name=names[0], partition_key=names[1]), READ_AT)
    workbook = workbook_of(folder, [record(1, file=names[0], folder=names[1])], first)
    for sheet in (workbook["summary"], workbook["documents"]):
        cells_of_sheet = [cell for row in sheet.iter_rows() for cell in row]
        assert {cell.data_type for cell in cells_of_sheet} <= {"s", "n", "b"}
        assert [cell for cell in cells_of_sheet if cell.hyperlink] == []
