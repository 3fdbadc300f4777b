"""Staging on real files and a real PostgreSQL: once, again, twice at once, and after every loss."""

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybase64
import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging import steps
from doceval_pipeline.doc_eval import files
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.errors import DatabaseError, StagingError, UnknownBatch
from doceval_pipeline_tests.conftest import Sample, evaluation_of
from doceval_pipeline_tests.documents.rewriting import is_whole, rewritten

BatchOf = Callable[..., Sample]
EVERYTHING = """
    SELECT (SELECT jsonb_agg(to_jsonb(d) ORDER BY d.id) FROM docs d),
           (SELECT jsonb_agg(to_jsonb(r) ORDER BY r.id) FROM llm_responses r),
           (SELECT jsonb_agg(to_jsonb(c) ORDER BY c.batch_id) FROM batch_configs c)
"""


def quiet(*_: int | None) -> None:
    """Progress that nobody watches."""


def test_every_document_is_queued_once_for_each_prompt_and_connection(batch_of: BatchOf) -> None:
    batch = batch_of(documents=8, connections=2, prompts=2)
    batch.stage()
    assert batch.knowledge(
        "SELECT count(*), count(DISTINCT (document_id, prompt_id, connection_id)) "
        "FROM llm_responses WHERE batch_id = :id AND status = 'QUEUED'"
    ) == [(32, 32)]
    assert batch.status() == "STAGED"
    assert batch.doc_eval("SELECT expected_cells, total_documents FROM batches WHERE id = :id") == [(32, 8)]


def test_what_is_stored_decodes_to_the_files(batch_of: BatchOf) -> None:
    batch = batch_of(documents=8)
    batch.stage()
    on_disk = {hashlib.sha256(path.read_bytes()).hexdigest() for path in batch.folder.iterdir()}
    stored = batch.knowledge("SELECT content, sha256, document_id FROM docs")
    decoded = {hashlib.sha256(pybase64.b64decode(row[0], validate=True)).hexdigest() for row in stored}
    assert decoded == on_disk == {row[1] for row in stored}
    assert all(row[2] == f"sha256:{row[1]}" for row in stored)


def test_a_type_that_an_earlier_release_stored_is_corrected_by_the_next_batch(batch_of: BatchOf) -> None:
    batch = batch_of()
    batch.stage()
    before = batch.knowledge(EVERYTHING)
    batch.plant("UPDATE docs SET content_type = 'application/octet-stream'")
    located = evaluation_of([{"name": "later", "folders": [str(batch.folder)]}])
    number = apply_evaluation(batch.databases.doc_eval, located).numbers["later"]
    Sample(batch.databases, number, "later", batch.folder).stage()
    assert batch.knowledge(EVERYTHING)[0][0] == before[0][0]


def test_staging_again_changes_no_byte(batch_of: BatchOf) -> None:
    batch = batch_of()
    batch.stage()
    before = batch.knowledge(EVERYTHING)
    batch.stage()
    assert batch.knowledge(EVERYTHING) == before
    assert batch.status() == "STAGED"


def test_staging_twice_at_once_gives_what_staging_once_gives(batch_of: BatchOf) -> None:
    batch = batch_of(documents=30)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(batch.stage) for _ in range(4)]:
            future.result()
    assert batch.knowledge("SELECT count(*) FROM docs") == [(30,)]
    assert batch.knowledge("SELECT count(*) FROM llm_responses") == [(120,)]
    assert batch.status() == "STAGED"


def test_batches_that_share_documents_store_them_once_also_when_staged_at_once(
    databases: Databases, batch_of: BatchOf
) -> None:
    batches = [batch_of(documents=0, name=f"batch {letter}") for letter in "abcd"]
    for batch in batches:
        for number in range(40):
            (batch.folder / f"{number}.bin").write_bytes(b"the same everywhere %d" % number)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(batch.stage) for batch in batches]:
            future.result()
    assert batches[0].knowledge("SELECT count(*) FROM docs") == [(40,)]
    assert [batch.status() for batch in batches] == ["STAGED"] * 4


def test_a_duplicate_file_shares_the_row_of_its_twin(batch_of: BatchOf) -> None:
    batch = batch_of(documents=3)
    (batch.folder / "copy.txt").write_bytes((batch.folder / "001.txt").read_bytes())
    batch.stage()
    assert batch.knowledge("SELECT count(*) FROM llm_responses WHERE batch_id = :id") == [(12,)]
    assert batch.doc_eval(
        "SELECT count(*), count(DISTINCT knowledge_document_id) FROM batch_documents "
        "WHERE batch_id = :id AND state = 'STAGED'"
    ) == [(4, 3)]


@pytest.mark.parametrize("loss", ["llm_responses", "llm_responses, docs", "batch_configs"])
def test_staging_again_repairs_what_was_lost_outside(batch_of: BatchOf, loss: str) -> None:
    batch = batch_of()
    batch.stage()
    batch.knowledge(f"TRUNCATE {loss}")
    batch.stage()
    assert batch.knowledge("SELECT count(*) FROM llm_responses") == [(32,)]
    assert batch.knowledge("SELECT count(*) FROM docs") == [(8,)]
    assert batch.knowledge("SELECT sha256 FROM batch_configs") == batch.doc_eval(
        "SELECT config_sha256 FROM batches WHERE id = :id"
    )


def test_results_that_are_there_survive_a_repair(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 7 WHERE batch_id = :id")
    batch.knowledge("DELETE FROM llm_responses WHERE id = (SELECT min(id) FROM llm_responses)")
    batch.stage()
    assert batch.knowledge("SELECT status, count(*) FROM llm_responses GROUP BY 1 ORDER BY 1") == [
        ("QUEUED", 1),
        ("S", 7),
    ]


def test_the_assignment_is_frozen_once_made(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    (batch.folder / "late.txt").write_text("too late")
    batch.stage()
    assert batch.doc_eval("SELECT count(*) FROM batch_documents WHERE batch_id = :id") == [(2,)]


def test_a_batch_without_a_usable_document_fails_with_the_reasons_and_can_be_repaired(
    batch_of: BatchOf,
) -> None:
    batch = batch_of(documents=0)
    (batch.folder / ".hidden").write_text("x")
    (batch.folder / "empty.txt").touch()
    with pytest.raises(StagingError, match=r"no usable document \(1 empty, 1 hidden\)"):
        batch.stage()
    assert batch.status() == "FAILED_STAGING"
    assert batch.knowledge("SELECT count(*) FROM llm_responses") == [(0,)]
    (batch.folder / "real.txt").write_text("real")
    batch.stage()
    assert batch.status() == "STAGED"
    assert batch.doc_eval("SELECT failure_reason FROM batches WHERE id = :id") == [(None,)]


def test_a_folder_that_is_gone_fails_with_its_name(batch_of: BatchOf) -> None:
    batch = batch_of(documents=0)
    batch.folder.rmdir()
    with pytest.raises(StagingError, match=str(batch.folder)):
        batch.stage()
    assert batch.status() == "FAILED_STAGING"


def test_finding_files_and_queueing_report_each_portion(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PORTION", 2)
    monkeypatch.setattr(files, "QUEUED_DOCUMENTS", 2)
    batch = batch_of(documents=3, connections=2, prompts=2)
    (batch.folder / "same.txt").write_bytes((batch.folder / "000.txt").read_bytes())
    steps.seal_batch(batch.databases, batch.id)
    found, queued = list[tuple[int, int | None, int]](), list[tuple[int, int | None, int]]()
    steps.assign_documents(batch.databases, batch.id, lambda *numbers: found.append(numbers))
    assert found == [(0, None, 0), (2, None, 0), (4, None, 0), (4, 4, 0)]
    steps.store_documents(batch.databases, batch.id, quiet)
    steps.queue_evaluations(batch.databases, batch.id, lambda *numbers: queued.append(numbers))
    assert queued == [(0, 12, 0), (8, 12, 0), (12, 12, 0)]


def test_a_file_that_vanishes_after_assignment_is_rejected_and_the_others_are_staged(
    batch_of: BatchOf,
) -> None:
    batch = batch_of(documents=3)
    steps.seal_batch(batch.databases, batch.id)
    steps.assign_documents(batch.databases, batch.id)
    (batch.folder / "001.txt").unlink()
    batch.stage()
    assert batch.doc_eval(
        "SELECT state, reason, count(*) FROM batch_documents WHERE batch_id = :id GROUP BY 1, 2 ORDER BY 1"
    ) == [("REJECTED", "vanished", 1), ("STAGED", None, 2)]
    assert batch.knowledge("SELECT count(*) FROM llm_responses") == [(8,)]


def test_a_batch_whose_files_all_vanish_fails_and_never_becomes_staged(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    steps.seal_batch(batch.databases, batch.id)
    steps.assign_documents(batch.databases, batch.id)
    for path in batch.folder.iterdir():
        path.unlink()
    (batch.folder / "came later.txt").touch()
    with pytest.raises(StagingError, match="no usable document"):
        steps.store_documents(batch.databases, batch.id, quiet)
    assert batch.status() == "FAILED_STAGING"


def test_large_and_small_documents_round_trip(batch_of: BatchOf) -> None:
    batch = batch_of(documents=0)
    sizes = [1, 2, 3, 4, 1048575, 1048576, 1048577, 5_000_001]
    for size in sizes:
        (batch.folder / f"{size}.bin").write_bytes(os.urandom(size))
    batch.stage()
    on_disk = {hashlib.sha256(path.read_bytes()).hexdigest() for path in batch.folder.iterdir()}
    stored = batch.knowledge("SELECT content FROM docs")
    assert {
        hashlib.sha256(pybase64.b64decode(row[0], validate=True)).hexdigest() for row in stored
    } == on_disk


@pytest.mark.parametrize(
    ("step", "advice"),
    [
        (steps.assign_documents, "materialize batch_config_snapshot first"),
        (
            lambda databases, batch_id: steps.store_documents(databases, batch_id, quiet),
            "batch_config_snapshot",
        ),
        (steps.queue_evaluations, "materialize batch_config_snapshot first"),
    ],
)
def test_a_step_without_the_one_before_it_says_what_to_do(
    batch_of: BatchOf, step: Callable[[Databases, int], object], advice: str
) -> None:
    batch = batch_of(documents=1)
    with pytest.raises(StagingError, match=advice):
        step(batch.databases, batch.id)


def test_queueing_before_the_documents_are_stored_is_refused(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    steps.seal_batch(batch.databases, batch.id)
    steps.assign_documents(batch.databases, batch.id)
    with pytest.raises(StagingError, match="2 documents are not stored yet"):
        steps.queue_evaluations(batch.databases, batch.id)
    assert batch.knowledge("SELECT count(*) FROM llm_responses") == [(0,)]


def test_a_number_without_a_batch_is_refused(databases: Databases) -> None:
    with pytest.raises(UnknownBatch, match="doc_eval has no batch 4711"):
        steps.seal_batch(databases, 4711)


def test_a_configuration_of_another_installation_is_not_overwritten(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.knowledge(
        "INSERT INTO batch_configs (batch_id, config, sha256) VALUES (:id, '{}', repeat('0', 64))"
    )
    with pytest.raises(DatabaseError, match="another doc_eval database uses it"):
        steps.seal_batch(batch.databases, batch.id)
    assert batch.status() == "FAILED_STAGING"


def test_a_step_whose_connection_is_cut_fails_and_the_next_one_repairs_it(batch_of: BatchOf) -> None:
    batch = batch_of(documents=3)
    steps.seal_batch(batch.databases, batch.id)
    steps.assign_documents(batch.databases, batch.id)

    def cut(done: int, *_: int) -> None:
        if not done:
            with batch.databases.doc_eval.begin() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
                        "AND objid = :id AND objsubid = 2"
                    ),
                    {"id": batch.id},
                )

    with pytest.raises(DatabaseError, match="the connection to the database was lost"):
        steps.store_documents(batch.databases, batch.id, cut)
    assert batch.status() == "FAILED_STAGING"
    batch.stage()
    assert batch.status() == "STAGED"
    assert batch.knowledge("SELECT count(*) FROM llm_responses") == [(12,)]


def test_a_second_run_waits_for_the_first_and_does_not_fail_it(batch_of: BatchOf) -> None:
    batch = batch_of(documents=3)
    steps.seal_batch(batch.databases, batch.id)
    steps.assign_documents(batch.databases, batch.id)
    second: list[threading.Thread] = []

    def start_second(done: int, *_: int) -> None:
        if not done:
            assert batch.is_at_work()
            second.append(threading.Thread(target=batch.stage))
            second[0].start()

    steps.store_documents(batch.databases, batch.id, start_second)
    second[0].join()
    assert not batch.is_at_work()
    assert batch.status() == "STAGED"


def test_a_sealed_snapshot_stays_the_same_bytes_after_edits(batch_of: BatchOf, databases: Databases) -> None:
    from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation

    batch = batch_of(documents=1)
    first = steps.seal_batch(databases, batch.id)
    edited = evaluation_of([])
    edited.evaluation.prompts[0] = edited.evaluation.prompts[0].model_copy(update={"text": "Edited"})
    apply_evaluation(databases.doc_eval, edited)
    assert batch.doc_eval("SELECT count(*) FROM prompts WHERE prompt_text = 'Edited'") == [(1,)]
    assert steps.seal_batch(databases, batch.id) == first
    assert hashlib.sha256(first.canonical.encode()).hexdigest() == first.sha256
    assert "Question 0?" in first.canonical


@pytest.mark.parametrize(
    "statement",
    [
        """UPDATE connections SET connection_config = '{"headers": {"Authorization": "canary"}}'""",
        "UPDATE connections SET base_url = 'https://u:canary@h/v1'",
        "UPDATE connections SET api_key_env = 'AKIACANARY0123456789'",
        "UPDATE prompts SET prompt_text = 'sk-proj-0123456789canary'",
        """UPDATE batches SET meta_data = '{"password": "canary"}'""",
    ],
)
def test_a_key_that_another_program_wrote_into_doc_eval_is_not_sealed(
    batch_of: BatchOf, statement: str
) -> None:
    batch = batch_of(documents=1)
    batch.doc_eval(statement)
    with pytest.raises(StagingError, match="contains a key") as caught:
        batch.stage()
    assert "canary" not in str(caught.value).lower()
    assert batch.status() == "FAILED_STAGING"
    assert batch.knowledge("SELECT count(*) FROM batch_configs") == [(0,)]


@pytest.mark.slow
def test_of_files_that_are_rewritten_all_the_time_no_mixture_is_stored(
    databases: Databases, tmp_path: Path
) -> None:
    files = [tmp_path / f"{number}.bin" for number in range(10)]
    with rewritten(files, rest=2.5):
        batches = evaluation_of([{"name": f"n{n}", "folders": [str(tmp_path)]} for n in range(2)])
        numbers = apply_evaluation(databases.doc_eval, batches).numbers
        for name, number in numbers.items():
            Sample(databases, number, name, tmp_path).stage()
    batch = Sample(databases, number, name, tmp_path)
    stored = batch.knowledge("SELECT content FROM docs")
    assert stored
    assert all(is_whole(pybase64.b64decode(content, validate=True)) for (content,) in stored)
    reasons = batch.doc_eval("SELECT DISTINCT reason FROM batch_documents WHERE reason IS NOT NULL")
    assert {reason for (reason,) in reasons} <= {"changed while being read", "vanished", "empty", "hidden"}
