"""Reused results as people see them: marked, with their origin, counted apart and at no cost."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.cells import COUNTS_ARE_KEPT
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.monitoring.status import BatchProgress, batch_progress
from doceval_pipeline.batches.results.comparing import Dimension, compare_batches, compare_in_batch
from doceval_pipeline.batches.results.exporting import export_records
from doceval_pipeline.batches.results.leaderboard import gather_leaderboard
from doceval_pipeline.batches.results.report_input import gather
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.results.score_drift import judge_drift
from doceval_pipeline.batches.staging.reprocessing import Mode, reprocess
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.domain.scores import are_same_results
from doceval_pipeline.errors import ComparisonError
from doceval_pipeline.knowledge.incremental_counts import IncrementalCounts, fold, read_counts
from doceval_pipeline.knowledge.report_queries import completed_results
from doceval_pipeline.knowledge.usage import read_experience
from doceval_pipeline.reports.exports.writing import Format
from doceval_pipeline.reports.figures import figures
from doceval_pipeline.reports.html import render_html
from doceval_pipeline.reports.leaderboard import render_leaderboard
from doceval_pipeline.reports.markdown import numeric_metadata, render_markdown
from doceval_pipeline.reports.model import ReportInput
from doceval_pipeline_tests.batches.staging.test_reuse import MODEL, answer, inbox, staged
from doceval_pipeline_tests.conftest import Sample, write_old

__all__ = ["inbox"]

PRICES = {"prices": {"input_per_million": 1e6, "output_per_million": 0, "currency": "EUR"}}
ASKED = {"output_tokens": 1, "time_taken_seconds": 2.0, "completed_processing_at": "2026-11-27 10:00:00Z"}


def night(databases: Databases, folder: Path, name: str, model: dict[str, Any] = PRICES) -> int:
    """A batch that reuses, as it is queued."""
    number, _ = staged(databases, folder, name, model=model)
    return number


def answered(databases: Databases, number: int, **columns: Any) -> ReportInput:
    """A batch whose waiting rows were answered, completed and reported."""
    answer(databases, number, **{**ASKED, **columns})
    poll(databases)
    write_report(databases, number)
    return gather(databases, number)


def progress(databases: Databases, number: int) -> BatchProgress:
    found = batch_progress(databases, str(number))
    return found


def only(counts: list[IncrementalCounts], number: int) -> IncrementalCounts:
    """Those of one batch; others may have changes that were not folded in."""
    (found,) = [each for each in counts if each.batch_id == number]
    return found


def kept(databases: Databases, number: int) -> tuple[int, int]:
    """Succeeded and reused cells as triggers keep them, which must be what the rows say."""
    with databases.knowledge.begin() as connection:
        before = only(read_counts(connection, [number]), number).cells
        fold(connection)
        found = only(read_counts(connection, [number]), number).cells
        assert found == before
        assert connection.execute(COUNTS_ARE_KEPT.query).all() == []
    return found.succeeded, found.reused


def exported(databases: Databases, number: int, path: Path) -> list[dict[str, Any]]:
    export_records(databases, number, Format.JSONL, path, lambda *_: None, every_attempt=False)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_reused_results_are_marked_counted_apart_and_in_no_token_second_or_cost(
    databases: Databases, inbox: Path, tmp_path: Path
) -> None:
    first = night(databases, inbox, "monday")
    answered(databases, first)
    write_old(inbox / "4.txt", "a new document")
    second = night(databases, inbox, "tuesday")
    poll(databases)
    waiting = progress(databases, second)
    assert waiting.batch.status is Status.STAGED, "no processor has touched it"
    assert kept(databases, second) == (4, 4)
    said = waiting.as_json()
    assert (said["cells_reused"], said["reused_from_batches"], said["cells"]["succeeded"]) == (4, 1, 4)
    assert waiting.reuse == "4 done, 4 of them reused from 1 batch"

    data = answered(databases, second)
    found = figures(data)
    assert found.verdict == "Complete: all 5 evaluations succeeded, 4 of them reused"
    assert (data.total.reused, data.total.cells.succeeded) == (4, 5)
    totals = (data.total.input_tokens, data.total.output_tokens, data.total.seconds)
    assert [total and (total.value, total.cells) for total in totals] == [(100, 1), (1, 1), (2, 1)]
    (cost,) = data.insights.costs
    assert (cost.amount, cost.cells, cost.unpriced) == (100, 1, 0)
    assert data.insights.seconds is not None
    assert data.insights.seconds.n == 1
    assert data.insights.counts.throughput is not None
    assert (sum(data.insights.counts.throughput.bins), data.insights.counts.throughput.without_time) == (1, 0)
    assert [(o.name, o.cells) for o in data.insights.counts.origins] == [("monday", 4)]
    assert data.insights.previous is not None
    assert (data.insights.previous.columns, data.insights.previous.same_results) == ((), 4)
    assert numeric_metadata(found)["cells_reused"] == 4
    assert "| reused | 4 from batch-" in render_markdown(found)
    page = render_html(data, found)
    assert page.count("<i>reused</i>") == 4 + 1, "four cells and the legend"
    assert f"reused from batch-{first:06d}" in page
    assert "100.00 <small>EUR</small>" in page

    with databases.knowledge.connect() as connection:
        assert {e.cells for e in read_experience(connection, second).values()} == {1}
        (told,) = completed_results(connection, [second])
    assert (told.reused, told.succeeded) == (4, 5)
    records = exported(databases, second, tmp_path / "second.jsonl")
    assert [record["reused_from_batch"] for record in records] == [first] * 4 + [None]
    assert [record["reused_from"] is None for record in records] == [False] * 4 + [True]

    # One result is not evidence of two, and does not differ from itself.
    drift = judge_drift(databases, second)
    assert (drift.same_results, [column.p for column in drift.columns]) == (4, [None])
    assert "4 results are in both by reuse and not compared" in drift.sentence
    with pytest.raises(ComparisonError, match="share only reused results"):
        compare_batches(databases, str(first), str(second), 50.0)
    (row,) = (board := gather_leaderboard(databases)).rows
    assert (row.cells, row.succeeded, row.documents, row.repeated) == (5, 5, 5, 4)
    assert "4 reused results repeat results" in render_leaderboard(board)


def test_what_is_asked_again_is_no_longer_reused_and_can_be_compared(
    databases: Databases, inbox: Path
) -> None:
    first = night(databases, inbox, "monday")
    answered(databases, first)
    second = night(databases, inbox, "tuesday")
    assert progress(databases, second).batch.status is Status.COMPLETED, "at once"
    again = reprocess(databases, second, Mode.missing, lambda *_: None)
    assert (again.rows_added, again.new_attempts) == (0, 0)
    with databases.knowledge.begin() as connection:
        connection.execute(
            text(
                "UPDATE llm_responses SET withdrawn_at = now() WHERE batch_id = :id "
                "AND document_id = (SELECT max(document_id) FROM llm_responses)"
            ),
            {"id": second},
        )
    assert kept(databases, second) == (3, 3)
    assert reprocess(databases, second, Mode.all, lambda *_: None).new_attempts == 4
    assert kept(databases, second) == (0, 0)
    data = answered(databases, second, overall_score=90)
    assert (data.total.reused, progress(databases, second).reuse) == (0, None)
    found = compare_batches(databases, str(first), str(second), 50.0)
    assert (found.pairs, found.same_results, found.overall.net) == (4, 0, 10)


def test_a_failed_evaluation_is_asked_again_and_not_reused(databases: Databases, inbox: Path) -> None:
    failed = night(databases, inbox, "monday")
    answered(databases, failed, status="F", error_message="overloaded")
    answered(databases, night(databases, inbox, "tuesday"))
    assert reprocess(databases, failed, Mode.failed, lambda *_: None).new_attempts == 4
    assert kept(databases, failed) == (0, 0)


def test_a_rescan_reuses_results_of_new_files(databases: Databases, inbox: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_old(other / "new.txt", "known elsewhere")
    elsewhere = night(databases, other, "elsewhere")
    answered(databases, elsewhere)
    batch = night(databases, inbox, "inbox")
    answered(databases, batch)
    write_old(inbox / "new.txt", "known elsewhere")
    assert reprocess(databases, batch, Mode.missing, lambda *_: None, rescan=True).rows_added == 1
    assert (kept(databases, batch), progress(databases, batch).batch.status) == ((5, 1), Status.COMPLETED)


@pytest.mark.parametrize(("model", "costs"), [(PRICES, [(0.0, "EUR", 0)]), ({}, [])])
def test_a_batch_that_is_wholly_reused_completes_at_once_and_costs_0(
    databases: Databases, inbox: Path, model: dict[str, Any], costs: list[Any]
) -> None:
    first = night(databases, inbox, "monday", model)
    answered(databases, first)
    second, queued = staged(databases, inbox, "tuesday", model=model)
    assert queued.sentence.endswith("all reused, no model is called")
    assert (
        progress(databases, second).reuse
        == "4 done, all of them reused from 1 batch: no model was called in this batch"
    )
    found = poll(databases, reported={})
    assert [seen.batch.id for seen in found.completed] == [second], "its report is asked for"
    data = gather(databases, second)
    assert [(cost.amount, cost.currency, cost.unpriced) for cost in data.insights.costs] == costs
    assert (data.insights.seconds, data.insights.counts.throughput) == (None, None)
    assert figures(data).verdict == "Complete: all 4 evaluations succeeded, reused from other batches"
    assert "| cost | 0: no model was called in this batch |" in render_markdown(figures(data))
    page = render_html(data, figures(data))
    assert '<dd>0</dd><dd class="muted">no model was called in this batch</dd>' in page
    assert "nothing to compare with" in page
    # As after a restore in another installation.
    with databases.knowledge.begin() as connection:
        connection.execute(
            text("UPDATE llm_responses SET reused_batch_id = 0 WHERE batch_id = :id"), {"id": second}
        )
    assert "all of them reused from another installation" in str(progress(databases, second).reuse)
    data = gather(databases, second)
    shown = render_html(data, figures(data)) + render_markdown(figures(data))
    assert "| reused | 4 from another installation |" in shown
    assert "batch-000000" not in shown
    compared = compare_batches(databases, str(first), str(second), 50.0)
    assert compared.same_results == 0, "the numbers of its rows are of another installation"
    (column,) = compared.columns
    assert (column.first_usage.reused, column.second_usage.reused) == (0, 4)
    assert "all results in tuesday are reused and cost nothing there" in column.sentence
    assert sum(row.repeated for row in gather_leaderboard(databases).rows) == 0


def test_repetitions_of_a_result_whose_batch_is_not_counted_count_once(
    databases: Databases, inbox: Path
) -> None:
    first = night(databases, inbox, "monday")
    answered(databases, first)
    for name in ("tuesday", "wednesday"):
        write_report(databases, night(databases, inbox, name))
    with databases.doc_eval.begin() as connection:
        connection.execute(text("UPDATE batches SET reported_digest = NULL WHERE id = :id"), {"id": first})
    (row,) = gather_leaderboard(databases).rows
    assert (row.cells, row.batches, row.repeated, row.scores and row.scores.n) == (4, 1, 4, 4)


def test_two_connections_that_reuse_one_result_do_not_agree_by_it(databases: Databases, inbox: Path) -> None:
    answered(databases, night(databases, inbox, "monday"))
    connections = [{**MODEL, **PRICES, "name": name} for name in ("model", "alias")]
    content = {
        "connections": connections,
        "prompts": [{"name": "clarity", "text": "Is it clear?"}],
        "batches": [
            {
                "name": "tuesday",
                "folders": [str(inbox)],
                "connections": ["model", "alias"],
                "prompts": ["clarity"],
                "reuse": "finished",
            }
        ],
    }
    (number,) = apply_evaluation(databases.doc_eval, locate(content, None, key_path)).numbers.values()
    Sample(databases, number, "tuesday", inbox).stage()
    data = gather(databases, number)
    assert (data.total.reused, data.insights.counts.all_origins, list(data.insights.agreements)) == (8, 1, [])
    with pytest.raises(ComparisonError, match="share only reused results"):
        compare_in_batch(databases, str(number), Dimension.CONNECTION, ("model", "alias"), 50.0)


def test_results_are_the_same_where_they_have_one_origin() -> None:
    first, second = np.array([7, 7, 0, 5]), np.array([7, 8, 0, 0])
    assert are_same_results(first, second).tolist() == [True, False, False, False]
