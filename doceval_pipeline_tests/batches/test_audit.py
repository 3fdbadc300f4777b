"""Each invariant of the audit holds on a sound installation and fires on a planted fault."""

from collections.abc import Callable

import pytest

from doceval_pipeline.batches.audit import check_round_trip, violations
from doceval_pipeline.batches.completion import look
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]


def audit(batch: Sample) -> list[tuple[str, str]]:
    return [(v.batch, v.invariant) for v in violations(batch.databases, True, lambda *_: None)]


def test_a_sound_installation_has_no_violation(batch_of: BatchOf) -> None:
    batch = batch_of()
    assert audit(batch) == []
    batch.stage()
    assert audit(batch) == []
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    look(batch.databases)
    assert audit(batch) == []


@pytest.mark.parametrize(
    ("fault", "invariant"),
    [
        (
            "UPDATE docs SET content = 'A' || substr(content, 2) WHERE id = (SELECT max(id) FROM docs)",
            "every stored document decodes to the bytes that were read",
        ),
        (
            "UPDATE docs SET content = '!' || substr(content, 2) WHERE id = (SELECT max(id) FROM docs)",
            "every stored document decodes to the bytes that were read",
        ),
        (
            "DELETE FROM llm_responses WHERE id = (SELECT min(id) FROM llm_responses)",
            "every cell has exactly one current row",
        ),
        (
            "INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details) "
            "SELECT 4711, min(id), 1, 1, '{}' FROM docs",
            "every queue row belongs to a batch",
        ),
        ("DELETE FROM batch_configs", "both databases hold the same sealed configuration"),
        (
            "UPDATE llm_responses SET status = 'N' WHERE id = (SELECT min(id) FROM llm_responses)",
            "a completed batch has no open cell",
        ),
        (
            "UPDATE llm_responses SET overall_score = 1 WHERE id = (SELECT min(id) FROM llm_responses)",
            "a completed batch was completed with the results it has",
        ),
    ],
)
def test_a_fault_in_knowledge_documents_is_found(batch_of: BatchOf, fault: str, invariant: str) -> None:
    batch = batch_of()
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 50")
    look(batch.databases)
    batch.plant(fault)
    assert invariant in [found for _, found in audit(batch)]


@pytest.mark.parametrize(
    ("fault", "invariant"),
    [
        ("UPDATE batches SET status = 'STAGING'", "a batch in STAGING is being staged"),
        (
            "UPDATE batch_documents SET state = 'ASSIGNED' "
            "WHERE document_id = (SELECT min(document_id) FROM batch_documents)",
            "a staged batch has no file left to store",
        ),
        (
            "DELETE FROM batch_documents WHERE document_id = (SELECT min(document_id) FROM batch_documents)",
            "every queue row has a document of its batch",
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
