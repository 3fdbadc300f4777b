"""The figures of reports, on inputs made by hand."""

from hypothesis import given
from hypothesis import strategies as st

from doceval_pipeline.domain.evaluations import Outcome
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.model import VerdictWord
from doceval_pipeline_tests.reports.reference_model import Row
from doceval_pipeline_tests.reports.sample_reports import cell, column, document, failed, report_input

TWO_FILES = [document(1), document(2)]


def open_cell(document_id: int, outcome: str, status: str) -> Row:
    return failed(document_id, None, outcome=outcome, status=status)


def test_a_batch_with_only_successes_is_complete() -> None:
    result = figures(report_input(TWO_FILES, [column()], [cell(1), cell(2)]))
    assert result.verdict == "Complete: all 2 evaluations succeeded"
    assert (result.cells.succeeded, result.cells.open, result.cells.missing) == (2, 0, 0)


def test_failures_are_counted_in_the_verdict() -> None:
    result = figures(report_input(TWO_FILES, [column()], [cell(1), failed(2)]))
    assert result.verdict == "Complete with failures: 1 of 2 evaluations failed"


def test_a_batch_whose_every_cell_failed_has_failed() -> None:
    result = figures(report_input(TWO_FILES, [column()], [failed(1), failed(2)]))
    assert result.verdict == "Failed: all 2 evaluations failed"


def test_open_evaluations_make_a_batch_incomplete_and_each_kind_is_named() -> None:
    documents = [document(n) for n in range(1, 8)]
    cells = [
        open_cell(1, "waiting", "QUEUED"),
        open_cell(2, "running", "P"),
        open_cell(3, "paused", "PAUSED"),
        open_cell(4, "unknown", "ODD"),
        failed(5),
        cell(6),
    ]
    result = figures(report_input(documents, [column()], cells))
    assert result.verdict == (
        "Incomplete: 5 of 7 evaluations have no result yet"
        " (1 waiting, 1 running, 1 paused, 1 unknown, 1 missing); 1 failed"
    )


def test_an_unlisted_outcome_is_unknown_and_not_done() -> None:
    result = figures(report_input([document()], [column()], [cell(outcome="splendid", status="SPLENDID")]))
    assert (result.cells.unknown, result.cells.succeeded, result.sums.scores) == (1, 0, None)
    assert result.verdict_word is VerdictWord.INCOMPLETE


def test_missing_rows_are_not_a_completion() -> None:
    result = figures(report_input(TWO_FILES, [column()], [cell(1)]))
    assert result.verdict == "Incomplete: 1 of 2 evaluations has no result yet (1 missing)"
    assert result.columns[0].cells.missing == 1


def test_a_batch_without_evaluations_has_its_own_verdict() -> None:
    result = figures(report_input())
    assert result.verdict == "Nothing evaluated: no evaluation was expected, and none exists"
    assert (result.sums.scores, result.sums.input_tokens, result.sums.seconds) == (None, None, None)


def test_a_file_that_is_not_staged_yet_keeps_a_batch_incomplete() -> None:
    waiting = document(2, state="ASSIGNED", document_id=None)
    result = figures(report_input([document(1), waiting], [column()], [cell(1)]))
    assert result.verdict == "Incomplete: 1 file is not staged yet"


def test_unexpected_rows_are_counted_and_reported() -> None:
    result = figures(report_input([document(1)], [column()], [cell(1), cell(9, 7, 7)]))
    assert (result.cells.rows, result.cells.surplus, result.cells.total) == (2, 1, 2)
    assert [c.column.connection for c in result.columns] == ["model-1", "connection 7"]


def test_a_score_of_zero_is_a_score() -> None:
    scores = figures(
        report_input(TWO_FILES, [column()], [cell(1, score=0.0), cell(2, score=50.0)])
    ).sums.scores
    assert scores is not None
    assert (scores.n, scores.mean, scores.median, scores.minimum, scores.maximum) == (2, 25, 25, 0, 50)
    assert scores.histogram == (1, 0, 0, 0, 0, 1, 0, 0, 0, 0)


def test_the_score_of_a_failed_cell_is_not_in_the_mean_but_the_cell_is_in_the_total() -> None:
    result = figures(report_input(TWO_FILES, [column()], [cell(1, score=60.0), failed(2, score=99.0)]))
    assert result.sums.scores is not None
    assert (result.sums.scores.mean, result.sums.scores.n, result.cells.total) == (60.0, 1, 2)


def test_columns_have_their_own_figures() -> None:
    columns = [column(1, 1), column(2, 1)]
    cells = [cell(1, 1, score=10.0), cell(2, 1, score=30.0), cell(1, 2, score=90.0), failed(2, connection=2)]
    first, second = figures(report_input(TWO_FILES, columns, cells)).columns
    assert first.sums.scores is not None
    assert second.sums.scores is not None
    assert (first.sums.scores.mean, first.sums.scores.n, first.cells.failed) == (20.0, 2, 0)
    assert (second.sums.scores.mean, second.sums.scores.n, second.cells.failed) == (90.0, 1, 1)


def test_totals_say_how_many_cells_report_them() -> None:
    cells = [cell(1), cell(2, input_tokens=None, output_tokens=0, seconds=0.25)]
    result = figures(report_input(TWO_FILES, [column()], cells))
    assert result.sums.input_tokens is not None
    assert result.sums.output_tokens is not None
    assert result.sums.seconds is not None
    assert (result.sums.input_tokens.value, result.sums.input_tokens.cells) == (100, 1)
    assert (result.sums.output_tokens.value, result.sums.output_tokens.cells) == (10, 2)
    assert (result.sums.seconds.value, result.sums.seconds.cells) == (1.25, 2)


def test_duplicates_share_a_result_and_are_counted_once() -> None:
    twins = [document(1), document(1, name="copy.pdf"), document(2)]
    result = figures(report_input(twins, [column()], [cell(1), cell(2)]))
    assert (result.documents, result.contents, result.duplicates) == (3, 2, 1)
    assert result.verdict == "Complete: all 2 evaluations succeeded"


def test_only_the_highest_attempt_of_a_cell_counts() -> None:
    cells = [failed(1, attempt=1), cell(1, attempt=3, score=70.0), failed(1, attempt=2)]
    result = figures(report_input([document(1)], [column()], cells))
    assert result.verdict == "Complete: the only evaluation succeeded"


def test_the_verdict_says_that_results_are_simulated() -> None:
    whole = figures(report_input([document()], [column()], [cell(simulated=True)]))
    part = figures(report_input(TWO_FILES, [column()], [cell(1, simulated=True), cell(2)]))
    assert whole.verdict == "Complete: the only evaluation succeeded [SIMULATED]"
    assert part.verdict == "Complete: all 2 evaluations succeeded [SIMULATED in 1 of 2 evaluations]"


CELLS = st.lists(
    st.builds(
        cell,
        document_id=st.integers(1, 4),
        connection=st.integers(1, 3),
        outcome=st.sampled_from([*map(str, Outcome), "odd"]),
        score=st.none() | st.floats(0, 100),
        attempt=st.integers(1, 3),
        input_tokens=st.none() | st.integers(0, 1_000),
    ),
    max_size=20,
)


@given(cells=CELLS, expected=st.integers(0, 20))
def test_no_cell_is_lost_or_counted_twice(cells: list[Row], expected: int) -> None:
    data = report_input([document(1), document(2)], [column(1), column(2)], cells, expected_cells=expected)
    result = figures(data)
    counts = result.cells
    assert counts.rows == len({(c.document_id, c.connection_id, c.prompt_id) for c in cells})
    assert counts.rows + counts.missing == counts.total == expected + counts.surplus
    assert sum(c.cells.rows for c in result.columns) == counts.rows
    assert sum(c.sums.scores.n for c in result.columns if c.sums.scores) == (
        result.sums.scores.n if result.sums.scores else 0
    )
    assert (result.verdict_word is VerdictWord.INCOMPLETE) == (counts.open > 0)
