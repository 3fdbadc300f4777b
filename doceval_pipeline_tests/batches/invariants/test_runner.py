"""The audit runs read-only, in portions, and in a number of statements that does not grow with the data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from psutil import Process
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import InternalError

from doceval_pipeline.batches.databases import Databases, open_databases
from doceval_pipeline.batches.invariants import audit, runner
from doceval_pipeline.batches.invariants.audit import (
    audit_installation,
    check_queue_complete,
    check_rows_have_documents,
)
from doceval_pipeline.batches.invariants.cells import CELLS_ARE_COMPLETE, ROWS_ARE_OF_THE_BATCH
from doceval_pipeline.batches.invariants.documents import CONTENTS_DECODE
from doceval_pipeline.batches.invariants.invariant import Database, Invariant, Scope
from doceval_pipeline.batches.invariants.runner import read_only, violations_of
from doceval_pipeline.batches.locks import number_lock
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.staging.steps import seal_batch
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.settings import MIB, Settings
from doceval_pipeline_tests.batches.archiving.archives import done, holdings
from doceval_pipeline_tests.batches.invariants.installation import BatchOf, quiet
from doceval_pipeline_tests.conftest import Sample, empty_databases, sample_batch

DELETE_A_ROW = "DELETE FROM llm_responses WHERE id = (SELECT min(id) FROM llm_responses WHERE batch_id = :id)"


@contextmanager
def statements() -> Iterator[list[str]]:
    """Every statement that is sent to a database."""
    sent: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def audited(databases: Databases) -> list[tuple[str, str]]:
    return [(v.batch, v.problem) for v in audit_installation(databases, quiet, every_document=True)]


def test_the_number_of_statements_does_not_grow_with_the_number_of_batches(batch_of: BatchOf) -> None:
    counts = []
    batches: list[Sample] = []
    for size in (3, 30):
        batches += [
            batch_of(documents=1, connections=1, prompts=1, name=f"batch {n}x")
            for n in range(len(batches), size)
        ]
        for batch in batches:
            if batch.status() == "SAVED":
                batch.stage()
        batches[0].knowledge("UPDATE llm_responses SET status = 'S'")
        poll(batches[0].databases)
        with statements() as sent:
            assert audited(batches[0].databases) == []
        counts.append(len(sent))
    assert counts[0] == counts[1]
    assert counts[0] < 150


def test_nothing_can_be_written_while_the_databases_are_asked(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    with read_only(batch.databases) as connections:
        for side, table in ((Database.DOC_EVAL, "batches"), (Database.KNOWLEDGE, "docs")):
            with (
                pytest.raises(InternalError, match="read-only transaction"),
                connections.transaction(side) as open_one,
            ):
                open_one.exec_driver_sql(f"DELETE FROM {table}")
    with batch.databases.knowledge.begin() as connection:
        connection.exec_driver_sql("DELETE FROM docs")


def test_an_audit_changes_nothing_also_where_it_finds_something(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=2))
    batch.knowledge(DELETE_A_ROW)
    before = holdings(batch)
    assert audited(batch.databases) != []
    assert holdings(batch) == before


def test_an_audit_waits_for_no_writer_and_no_writer_for_it(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    with batch.databases.knowledge.begin() as writer, batch.databases.doc_eval.begin() as other:
        writer.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
        writer.exec_driver_sql("UPDATE llm_responses SET status = 'P'")
        other.exec_driver_sql("UPDATE batches SET description = 'other'")
        with read_only(batch.databases) as connections:
            assert list(violations_of(connections, CELLS_ARE_COMPLETE, Scope())) == []
            writer.exec_driver_sql("UPDATE llm_responses SET status = 'S'")


@pytest.mark.parametrize("size", [1, 2, 3, 1_000])
def test_rows_are_handed_over_in_portions_and_the_same_is_found(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    first, second = batch_of(documents=3, name="first"), batch_of(documents=4, name="second")
    first.stage()
    second.stage()
    monkeypatch.setattr(runner, "PORTION", size)
    portions: list[int] = []
    with read_only(first.databases) as connections:
        for invariant in (CELLS_ARE_COMPLETE, ROWS_ARE_OF_THE_BATCH, CONTENTS_DECODE):
            assert list(violations_of(connections, invariant, Scope(), portions.append)) == []
    assert max(portions) <= size
    assert sum(portions) == 3 * 7
    # Each in the middle of the contents of its batch, and each a fault of both kinds.
    lost = {
        batch.id: batch.knowledge(
            "SELECT DISTINCT document_id FROM llm_responses WHERE batch_id = :id ORDER BY 1"
        )[1][0]
        for batch in (first, second)
    }
    for batch in (first, second):
        document = lost[batch.id]
        batch.knowledge(
            "DELETE FROM llm_responses WHERE id = "
            f"(SELECT max(id) FROM llm_responses WHERE batch_id = :id AND document_id = {document})"
        )
        batch.doc_eval(
            "UPDATE batch_documents SET state = 'SKIPPED', reason = 'hidden' "
            "WHERE batch_id = :id AND knowledge_document_id = "
            "(SELECT max(knowledge_document_id) FROM batch_documents WHERE batch_id = :id)"
        )
    with read_only(first.databases) as connections:
        incomplete = list(violations_of(connections, CELLS_ARE_COMPLETE, Scope()))
        strange = list(violations_of(connections, ROWS_ARE_OF_THE_BATCH, Scope()))
    assert [(v.batch_id, v.subject, v.problem) for v in incomplete] == [
        (number, f"docs.id {document}", "3 of 4 evaluations have a current row")
        for number, document in lost.items()
    ]
    assert [v.batch_id for v in strange] == [first.id, second.id]


@pytest.mark.parametrize("rows", ["input", "violations"])
def test_memory_does_not_grow_with_the_rows(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch, rows: str
) -> None:
    monkeypatch.setattr(runner, "PORTION", 10_000)
    many = text(
        "SELECT n AS batch_id, repeat('x', 500) AS subject, '' AS problem FROM generate_series(1, 600000) n"
    )
    invariant = Invariant(
        name="many-rows",
        statement="300 MB are not held at once",
        runs_in=(Database.KNOWLEDGE,),
        input_query=many if rows == "input" else None,
        query=text("SELECT NULL AS batch_id, '' AS subject, '' AS problem") if rows == "input" else many,
        fix="",
    )
    process = Process()
    with read_only(batch_of(documents=0).databases) as connections:
        held = [process.memory_info().rss]
        for number, _ in enumerate(violations_of(connections, invariant, Scope())):
            if rows == "input" or number % 10_000 == 0:
                held.append(process.memory_info().rss)
    assert len(held) == 61
    assert max(held) - held[0] < 100 * MIB


def test_a_check_covers_one_batch_alone(batch_of: BatchOf) -> None:
    sound, torn = batch_of(documents=2, name="sound"), batch_of(documents=2, name="torn")
    sound.stage()
    torn.stage()
    torn.knowledge(DELETE_A_ROW)
    assert check_queue_complete(sound.databases, sound.id).problems == 0
    found = check_queue_complete(torn.databases, torn.id)
    assert (found.checked, found.problems) == (8, 1)
    assert found.summary.endswith(": 3 of 4 evaluations have a current row")
    assert check_rows_have_documents(torn.databases, torn.id).problems == 0


def test_a_batch_that_is_not_staged_is_not_called_complete(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    found = check_queue_complete(batch.databases, batch.id)
    assert found.problems == 1
    assert "is SAVED" in found.summary


def test_twenty_violations_are_shown_and_the_rest_is_counted(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(documents=8)
    batch.stage()
    batch.plant("UPDATE llm_responses SET deliveries = 6")
    found = audited(batch.databases)
    assert len(found) == 21
    assert found[-1] == ("", "and 12 more")
    # What is not remembered is counted all the same.
    monkeypatch.setattr(audit, "KEPT", 25)
    assert audited(batch.databases) == found


@pytest.mark.parametrize("fixed", [True, False])
def test_passing_states_are_not_reported(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch, fixed: bool
) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.doc_eval("UPDATE batches SET expected_cells = expected_cells + 1")

    def pipeline_goes_on(_: float) -> None:
        if fixed:
            batch.doc_eval("UPDATE batches SET expected_cells = expected_cells - 1")

    monkeypatch.setattr(audit.time, "sleep", pipeline_goes_on)
    assert len(audited(batch.databases)) == (0 if fixed else 1)


def test_violations_that_appear_during_the_recheck_are_left_for_the_next_audit(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = batch_of(documents=1, name="first"), batch_of(documents=1, name="second")
    first.stage()
    second.stage()
    first.doc_eval("UPDATE batches SET expected_cells = 1 WHERE id = :id")

    def goes_wrong_elsewhere(_: float) -> None:
        first.doc_eval("UPDATE batches SET expected_cells = 5 - expected_cells")

    monkeypatch.setattr(audit.time, "sleep", goes_wrong_elsewhere)
    assert [where for where, _ in audited(first.databases)] == []


def test_the_recheck_draws_the_same_documents(batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(documents=8)
    batch.stage()
    batch.knowledge("UPDATE docs SET content = '!' || substr(content, 2)")
    monkeypatch.setattr(audit, "SAMPLE", 1)
    drawn = set()
    for _ in range(12):
        ((_, problem),) = [
            (v.batch, v.problem) for v in audit_installation(batch.databases, quiet, every_document=False)
        ]
        drawn.add(problem)
    assert len(drawn) > 1, "and another audit others"


def test_a_staging_that_has_just_begun_may_be_between_two_steps(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    seal_batch(batch.databases, batch.id)
    assert batch.status() == "STAGING"
    assert audited(batch.databases) == []
    batch.doc_eval("UPDATE batches SET status_changed_at = now() - interval '2 minutes'")
    assert audited(batch.databases) == [(batch.key, "status STAGING: no process is staging it")]


def test_batches_that_a_process_works_on_are_not_reported(batch_of: BatchOf) -> None:
    batch, other = batch_of(documents=1), batch_of(documents=1, name="other")
    for one in (batch, other):
        one.stage()
        one.doc_eval("UPDATE batches SET expected_cells = expected_cells + 1 WHERE id = :id")
    with number_lock(batch.databases, batch.id):
        assert {where for where, _ in audited(batch.databases)} == {other.key}
    assert {where for where, _ in audited(batch.databases)} == {batch.key, other.key}


def late(batch: Sample) -> None:
    """A processor changes a result of a batch that is closed, as it may."""
    batch.knowledge("UPDATE llm_responses SET status = 'F'")
    poll(batch.databases)
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE id = (SELECT min(id) FROM llm_responses)")


def all_answered(batch: Sample) -> None:
    batch.knowledge("UPDATE llm_responses SET status = 'S'")


def queued_anew(batch: Sample) -> None:
    """Somebody adds an attempt to a batch that is closed."""
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    poll(batch.databases)
    batch.knowledge(
        "INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details, "
        "attempt) SELECT batch_id, document_id, prompt_id, connection_id, connection_details, 2 "
        "FROM llm_responses LIMIT 1"
    )


@pytest.mark.parametrize("write", [late, all_answered, queued_anew])
def test_what_no_tick_has_seen_yet_is_no_offence(batch_of: BatchOf, write: Callable[[Sample], None]) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    write(batch)
    assert audited(batch.databases) == []
    # Without the trace that the write left for the tick, nobody would act on it.
    with batch.databases.knowledge.begin() as connection:
        connection.exec_driver_sql("SELECT fold_response_counts()")
    assert [where for where, _ in audited(batch.databases)] != []
    poll(batch.databases)
    assert audited(batch.databases) == []


def test_the_databases_may_be_on_two_servers(settings: Settings, tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "home")
    server.ensure()
    try:
        server.ensure_database("elsewhere")
        databases = open_databases(replace(settings, knowledge_documents_url=server.url("elsewhere")))
        empty_databases(databases.settings)
        batch = sample_batch(databases, tmp_path, documents=2)
        batch.stage()
        (superuser,) = audited(databases)
        assert superuser[0] == "KNOWLEDGE_DOCUMENTS_URL"
        batch.knowledge(DELETE_A_ROW)
        batch.doc_eval("UPDATE batch_documents SET sha256 = repeat('a', 64)")
        found = [problem.split(": ")[1] for where, problem in audited(databases) if where == batch.key]
        assert "3 of 4 evaluations have a current row" in found
        assert found.count("the document has another sha256 or size than its file had") == 2
    finally:
        databases.knowledge.dispose()
        server.stop()
