"""A plan says what the action then does, and writes nothing."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.staging.planning import Plan, plan
from doceval_pipeline.batches.staging.reprocessing import Mode, cancel, pause, reprocess
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.errors import BatchStateError, StagingError
from doceval_pipeline_tests.conftest import Sample, evaluation_of, write_old

BatchOf = Callable[..., Sample]
EVERYTHING = """
    SELECT md5(string_agg(r::text, '' ORDER BY id)) FROM llm_responses r
    UNION ALL SELECT md5(string_agg(d::text, '' ORDER BY id)) FROM docs d
    UNION ALL SELECT md5(string_agg(c::text, '' ORDER BY batch_id)) FROM batch_configs c
"""
EVERYTHING_HERE = """
    SELECT md5(string_agg(b::text, '' ORDER BY id)) FROM batches b
    UNION ALL SELECT md5(string_agg(d::text, '' ORDER BY document_id)) FROM batch_documents d
"""


def planned(batch: Sample, mode: Mode = Mode.missing, rescan: bool = False) -> Plan:
    before = batch.knowledge(EVERYTHING), batch.doc_eval(EVERYTHING_HERE)
    found = plan(batch.databases, batch.id, mode, lambda *_: None, rescan=rescan)
    assert (batch.knowledge(EVERYTHING), batch.doc_eval(EVERYTHING_HERE)) == before, "a plan writes nothing"
    return found


def finished(batch_of: BatchOf, **columns: Any) -> Sample:
    batch = batch_of(documents=5)
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET status = CASE WHEN id < (SELECT min(id) + 3 FROM llm_responses) "
        "THEN 'F' ELSE 'S' END, input_tokens = 100 + id % 3, output_tokens = 10, time_taken_seconds = 2"
    )
    poll(batch.databases)
    return batch


def test_the_plan_of_a_saved_batch_is_what_staging_then_does(batch_of: BatchOf) -> None:
    batch = batch_of(documents=5)
    write_old(batch.folder / "twin.txt", (batch.folder / "000.txt").read_text())
    write_old(batch.folder / "empty.txt", "")
    found = planned(batch)
    assert (found.documents.added, found.documents.reused, found.documents.unusable) == (5, 0, {"empty": 1})
    assert found.cells.added == {"new bytes": 20, "no row yet": 0}
    batch.stage()
    assert batch.knowledge("SELECT count(*), sum(file_size) FROM docs") == [(5, found.documents.added_bytes)]
    assert batch.knowledge("SELECT count(*) FROM llm_responses") == [(20,)]
    assert planned(batch).cells.added == {"new bytes": 0, "no row yet": 0}
    assert planned(batch).cells.left_alone == 20


def test_documents_that_another_batch_stored_are_reused(batch_of: BatchOf) -> None:
    first = batch_of(documents=5)
    first.stage()
    located = evaluation_of([{"name": "second", "folders": [str(first.folder)]}])
    number = apply_evaluation(first.databases.doc_eval, located).numbers["second"]
    found = planned(Sample(first.databases, number, "second", first.folder))
    assert (found.documents.added, found.documents.reused) == (0, 5)
    assert found.cells.added == {"new bytes": 0, "no row yet": 20}


def test_failed_and_all_say_how_many_results_they_supersede(batch_of: BatchOf) -> None:
    batch = finished(batch_of)
    assert planned(batch, Mode.failed).cells.superseded == {"failed": 3}
    assert planned(batch, Mode.failed).cells.kept == 17
    both = planned(batch, Mode.all)
    assert both.cells.superseded == {"succeeded": 17, "failed": 3}
    assert sum(estimate.cells for estimate in both.estimates) == 20
    reprocess(batch.databases, batch.id, Mode.failed, lambda *_: None)
    again = planned(batch, Mode.failed)
    assert (again.cells.superseded, again.cells.left_alone) == ({"failed": 0}, 3)


def test_a_rescan_names_new_changed_and_vanished_documents(batch_of: BatchOf) -> None:
    batch = finished(batch_of)
    write_old(batch.folder / "new.txt", "new")
    write_old(batch.folder / "000.txt", "changed")
    (batch.folder / "001.txt").unlink()
    found = planned(batch, rescan=True)
    assert (found.documents.added, found.documents.reused, found.documents.leaving) == (2, 3, 2)
    assert found.cells.added == {"new bytes": 8, "no row yet": 0}
    assert found.cells.set_aside == 8
    done = reprocess(batch.databases, batch.id, Mode.missing, lambda *_: None, rescan=True)
    assert done.rows_added == 8
    assert batch.knowledge("SELECT count(*) FROM llm_responses WHERE withdrawn_at IS NOT NULL") == [(8,)]


def test_a_document_that_returns_keeps_its_rows(batch_of: BatchOf) -> None:
    batch = finished(batch_of)
    content = (batch.folder / "001.txt").read_text()
    (batch.folder / "001.txt").unlink()
    reprocess(batch.databases, batch.id, Mode.missing, lambda *_: None, rescan=True)
    write_old(batch.folder / "001.txt", content)
    found = planned(batch, rescan=True)
    assert (found.documents.reused, sum(found.cells.added.values()), found.cells.kept) == (5, 0, 20)


def test_deleted_rows_are_planned_to_be_added_again(batch_of: BatchOf) -> None:
    batch = finished(batch_of)
    batch.knowledge("DELETE FROM llm_responses WHERE id = (SELECT max(id) FROM llm_responses)")
    assert planned(batch).cells.added == {"new bytes": 0, "no row yet": 1}


def test_estimates_come_from_this_installation_and_are_unknown_without_history(batch_of: BatchOf) -> None:
    batch = batch_of(documents=5)
    for estimate in planned(batch).estimates:
        assert (estimate.cells, estimate.experience) == (10, 0)
        assert estimate.input_tokens is estimate.seconds is estimate.cost is None
    assert planned(batch).estimates[0].as_json()["input_tokens"] is None
    finished_batch = finished(lambda documents: batch)
    for estimate in planned(finished_batch, Mode.all).estimates:
        assert estimate.experience == 10
        assert estimate.input_tokens is not None
        assert estimate.input_tokens.low <= 1_010 <= estimate.input_tokens.high
        assert estimate.output_tokens is not None
        assert estimate.output_tokens.expected == pytest.approx(100)
        assert estimate.seconds is not None
        assert estimate.seconds.high == pytest.approx(20)


def test_history_of_other_batches_counts_once_each(batch_of: BatchOf) -> None:
    first = finished(batch_of)
    poll(first.databases)
    second = batch_of(documents=4, name="second")
    (estimate, _) = planned(second).estimates
    assert estimate.experience == 10
    reprocess(first.databases, first.id, Mode.failed, lambda *_: None)
    assert planned(first, Mode.all).estimates[0].experience == 10, "its own live rows, not twice"


def test_cost_is_tokens_by_prices_and_unknown_without_either(batch_of: BatchOf) -> None:
    batch = finished(batch_of)
    assert planned(batch, Mode.all).estimates[0].currency is None
    batch.doc_eval(
        'UPDATE connections SET prices = \'{"input_per_million": 0, "output_per_million": 5e5, '
        '"currency": "EUR"}\''
    )
    estimate = planned(batch, Mode.all).estimates[0]
    assert estimate.currency == "EUR"
    assert estimate.cost is not None
    assert estimate.cost.expected == pytest.approx(50)
    batch.plant("UPDATE llm_responses SET output_tokens = NULL")
    batch.doc_eval("DELETE FROM connection_history")
    assert planned(batch, Mode.all).estimates[0].cost is None


def test_history_that_cannot_be_is_left_out(batch_of: BatchOf) -> None:
    batch = finished(batch_of)
    before = planned(batch, Mode.all).estimates
    batch.doc_eval(
        "INSERT INTO batches (id, batch_number, batch_name) OVERRIDING SYSTEM VALUE "
        "SELECT n, n, n FROM generate_series(1001, 1009) n"
    )
    values = (
        "1, 1e308, 1, 1, 1, 1, 1",
        "1, -1, 1, 1, 1, 1, 1",
        "1, 1, 1e308, 1, 1, 1, 1",
        "3, 1, 1e-300, 1, 1, 1e30, 1",
        "1, 1, 1, -1e308, 1, 1, 1",
        "1, 1, 1, 1, 1e308, 1, 1",
        "1, 1, 1, 1, 1, 'NaN', 1",
        "1, 1, 1, 1, 1, 1, 'Infinity'",
        "9223372036854775807, 1, 1, 1, 1, 1, 1",
    )
    for number, row in enumerate(values, start=1001):
        batch.doc_eval(
            f"INSERT INTO connection_history SELECT {number}, c.id, m, {row} "
            "FROM connections c, unnest('{input_tokens,output_tokens,seconds}'::text[]) m"
        )
    assert planned(batch, Mode.all).estimates == before


def test_a_prompt_that_was_edited_since_is_named(batch_of: BatchOf) -> None:
    batch = finished(batch_of)
    assert planned(batch).notes == []
    batch.doc_eval("UPDATE prompts SET prompt_text = 'Other?' WHERE name = 'prompt-1'")
    (note,) = planned(batch).notes
    assert "prompt 'prompt-1' was edited after this batch was sealed" in note


def test_a_plan_refuses_what_the_action_would_refuse(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    for mode, rescan in ((Mode.failed, False), (Mode.missing, True)):
        with pytest.raises(BatchStateError, match="stage it first"):
            planned(batch, mode, rescan)
    batch.stage()
    pause(batch.databases, batch.id)
    with pytest.raises(BatchStateError, match=f"doceval resume {batch.id} first"):
        planned(batch)
    cancel(batch.databases, batch.id)
    os.rename(batch.folder, batch.folder.with_name("elsewhere"))
    assert planned(batch).documents.reused == 2
    with pytest.raises(StagingError, match="does not exist"):
        planned(batch, rescan=True)
