"""Storing in pages and portions, with and without the right to take ids from the sequence of `docs`."""

import re
from collections.abc import Callable

import pytest

from doceval_pipeline.batches.staging import storing
from doceval_pipeline.batches.staging.steps import assign_documents, seal_batch, store_documents
from doceval_pipeline.doc_eval import files
from doceval_pipeline.doc_eval.files import StagedFile
from doceval_pipeline.domain.files import Fingerprint
from doceval_pipeline.errors import StagingError
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
FILES = 23


@pytest.fixture
def batch(batch_of: BatchOf) -> Sample:
    """A batch whose files are assigned, and not stored yet."""
    made = batch_of(documents=FILES)
    seal_batch(made.databases, made.id)
    assign_documents(made.databases, made.id)
    return made


def require_stored(batch: Sample) -> None:
    """Each file is staged with the id of the document that has its sha256."""
    staged = batch.doc_eval(
        "SELECT sha256, knowledge_document_id FROM batch_documents WHERE batch_id = :id AND state = 'STAGED'"
    )
    assert len(staged) == FILES
    assert set(staged) == set(batch.knowledge("SELECT sha256, id FROM docs"))


@pytest.mark.parametrize(("page", "portion"), [(1, 5), (4, 1), (FILES, 10), (FILES + 1, 100)])
def test_files_are_stored_once_whatever_the_pages_and_portions(
    batch: Sample, monkeypatch: pytest.MonkeyPatch, page: int, portion: int
) -> None:
    monkeypatch.setattr(storing, "PAGE_FILES", page)
    monkeypatch.setattr(storing, "PORTION_FILES", portion)
    steps: list[tuple[int, int, int]] = []
    result = store_documents(batch.databases, batch.id, lambda *step: steps.append(step))
    assert (result.files, result.copied) == (FILES, FILES)
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == ((0, FILES, 0), (FILES, FILES, result.bytes))
    require_stored(batch)


@pytest.mark.parametrize("gone", ["moved", "replaced by an empty folder"])
def test_files_of_a_folder_that_is_gone_are_not_left_out_one_by_one(
    batch: Sample, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    monkeypatch.setattr(storing, "PORTION_FILES", 5)
    elsewhere = batch.folder.with_name("elsewhere")

    def lose(done: int, *_: int) -> None:
        if done and not elsewhere.exists():
            batch.folder.rename(elsewhere)
            if gone != "moved":
                batch.folder.mkdir()

    with pytest.raises(StagingError, match=f"folder {re.escape(str(batch.folder))} .*move or mount it back"):
        store_documents(batch.databases, batch.id, lose)
    assert not batch.doc_eval("SELECT 1 FROM batch_documents WHERE batch_id = :id AND state = 'REJECTED'")
    if gone != "moved":
        batch.folder.rmdir()
    elsewhere.rename(batch.folder)
    store_documents(batch.databases, batch.id, lambda *_: None)
    require_stored(batch)


def test_a_role_that_may_not_use_the_sequence_stores_the_same_rows(
    batch: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "take_ids", lambda *_: [])
    store_documents(batch.databases, batch.id, lambda *_: None)
    require_stored(batch)


def test_only_assigned_files_of_the_batch_are_recorded_as_stored(batch: Sample) -> None:
    with batch.databases.doc_eval.begin() as connection:
        waiting = files.unstaged_files(connection, batch.id)
        document = Fingerprint("a" * 64, 1, "text/plain", "txt")
        stored = [StagedFile(file.file_id, document, 7) for file in waiting]
        files.mark_rejected(connection, batch.id, {waiting[0].file_id: "vanished"})
        files.mark_staged(connection, batch.id + 1, stored)
        assert files.count_documents(connection, [batch.id])[batch.id].assigned == FILES - 1
        files.mark_staged(connection, batch.id, stored)
        counts = files.count_documents(connection, [batch.id])[batch.id]
        assert (counts.rejected, counts.staged, counts.assigned) == (1, FILES - 1, 0)
        connection.rollback()
