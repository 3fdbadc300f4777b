"""The audit reports nothing on a sound installation, and reports each corruption."""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from doceval_pipeline.batches.invariants.audit import audit_installation, check_round_trip
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.settings import MIB
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]


def audit(batch: Sample) -> list[tuple[str, str]]:
    return [
        (v.batch, v.invariant)
        for v in audit_installation(batch.databases, lambda *_: None, every_document=True)
    ]


def test_a_sound_installation_has_no_violation(batch_of: BatchOf) -> None:
    batch = batch_of()
    assert audit(batch) == []
    batch.stage()
    assert audit(batch) == []
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    poll(batch.databases)
    assert audit(batch) == []


@pytest.mark.parametrize(
    ("fault", "invariant"),
    [
        (
            "UPDATE docs SET content = 'A' || substr(content, 2) WHERE id = (SELECT max(id) FROM docs)",
            "every stored document decodes to the original bytes",
        ),
        (
            "UPDATE docs SET content = '!' || substr(content, 2) WHERE id = (SELECT max(id) FROM docs)",
            "every stored document decodes to the original bytes",
        ),
        (
            "DELETE FROM llm_responses WHERE id = (SELECT min(id) FROM llm_responses)",
            "every evaluation has exactly one current queue row",
        ),
        (
            "INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details) "
            "SELECT 4711, min(id), 1, 1, '{}' FROM docs",
            "every queue row belongs to a batch",
        ),
        ("DELETE FROM batch_configs", "both databases hold the same sealed configuration"),
        (
            "UPDATE llm_responses SET status = 'N' WHERE id = (SELECT min(id) FROM llm_responses)",
            "every evaluation of a completed batch is done",
        ),
        (
            "UPDATE llm_responses SET overall_score = 1 WHERE id = (SELECT min(id) FROM llm_responses)",
            "the recorded digest of every completed batch matches its results",
        ),
    ],
)
def test_a_fault_in_knowledge_documents_is_found(batch_of: BatchOf, fault: str, invariant: str) -> None:
    batch = batch_of()
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 50")
    poll(batch.databases)
    batch.plant(fault)
    assert invariant in [found for _, found in audit(batch)]


@pytest.mark.parametrize(
    ("fault", "invariant"),
    [
        (
            "UPDATE batches SET status = 'STAGING', status_changed_at = now() - interval '1 hour'",
            "every batch in STAGING is being staged",
        ),
        (
            "UPDATE batch_documents SET state = 'ASSIGNED' "
            "WHERE document_id = (SELECT min(document_id) FROM batch_documents)",
            "every file of a staged batch is stored",
        ),
        (
            "DELETE FROM batch_documents WHERE document_id = (SELECT min(document_id) FROM batch_documents)",
            "every queue row is for a document of its batch",
        ),
    ],
)
def test_a_fault_in_doc_eval_is_found(batch_of: BatchOf, fault: str, invariant: str) -> None:
    batch = batch_of()
    batch.stage()
    batch.doc_eval(fault)
    assert invariant in [found for _, found in audit(batch)]


def test_a_sample_checks_as_many_documents_as_were_asked_for(batch_of: BatchOf) -> None:
    batch = batch_of(documents=8)
    batch.stage()
    assert check_round_trip(batch.databases, batch.id, 3).checked == 3
    assert check_round_trip(batch.databases, batch.id, None).checked == 8


def test_of_many_contents_exactly_those_that_are_not_base64_are_named(batch_of: BatchOf) -> None:
    batch = batch_of(documents=9)
    batch.stage()
    batch.knowledge(
        "UPDATE docs SET content = '!' || substr(content, 2) "
        "WHERE id IN (SELECT id FROM docs ORDER BY id LIMIT 2)"
    )
    batch.knowledge(
        "UPDATE docs SET content = 'A' || substr(content, 2) WHERE id = (SELECT max(id) FROM docs)"
    )
    ids = [row[0] for row in batch.knowledge("SELECT id FROM docs ORDER BY id")]
    found = check_round_trip(batch.databases, batch.id, None)
    assert (found.checked, found.problems) == (9, 3)
    assert found.summary == (
        f"docs.id {ids[0]}, docs.id {ids[1]}: the content is not base64; "
        f"docs.id {ids[8]}: the content does not decode to the original bytes"
    )


@pytest.mark.slow
def test_a_content_of_more_characters_than_a_pattern_can_take_is_checked(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    large = batch.folder / "large.bin"
    with large.open("wb") as file:
        file.truncate(202 * MIB)
    os.utime(large, (1_000_000_000, 1_000_000_000))
    batch.databases = replace(
        batch.databases, settings=replace(batch.databases.settings, max_document_bytes=250 * MIB)
    )
    batch.stage()
    found = check_round_trip(batch.databases, batch.id, sample=None)
    assert (found.checked, found.problems) == (2, 0)
