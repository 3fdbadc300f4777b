"""A batch that is queued in many ranges of documents gets the rows that one range gives."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.staging.reprocessing import Mode, reprocess
from doceval_pipeline.doc_eval import files
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.domain.files import BEFORE_ALL_IDS, LAST_ID, document_ranges
from doceval_pipeline.knowledge.queue import tally_rows
from doceval_pipeline_tests.conftest import Sample, evaluation_of, write_old

ROWS = """
    SELECT document_id, prompt_id, connection_id, attempt, status, withdrawn_at IS NOT NULL, file_name,
           superseded_at IS NOT NULL,
           queue_position - min(queue_position) OVER (PARTITION BY created_at) AS place
    FROM llm_responses WHERE batch_id = :id ORDER BY created_at, queue_position
"""


@given(
    st.sets(st.one_of(st.integers(-5, 30), st.integers(BEFORE_ALL_IDS + 1, LAST_ID))),
    st.integers(1, 10),
    st.integers(BEFORE_ALL_IDS + 1, LAST_ID),
)
def test_ranges_cover_every_id_once_and_have_their_documents(ids: set[int], size: int, other: int) -> None:
    ascending = sorted(ids)
    portions = [ascending[begin : begin + size] for begin in range(0, len(ascending), size)]
    ranges = list(document_ranges((portion, [str(id_) for id_ in portion]) for portion in portions))
    assert [id_ for part in ranges for id_ in part.ids] == ascending
    assert [name for part in ranges for name in part.names] == [str(id_) for id_ in ascending]
    for wanted in (*ids, other, LAST_ID, BEFORE_ALL_IDS + 1):
        (part,) = [part for part in ranges if part.after < wanted <= part.through]
        assert (wanted in part.ids) is (wanted in ids)


def life(databases: Databases, folder: Path, name: str) -> list[Any]:
    """What a batch has after each step of a life in which files leave, arrive and return."""
    folder.mkdir()
    for number in range(9):
        write_old(folder / f"{number}.txt", f"document {number}")
    write_old(folder / "copy of 3.txt", "document 3")
    located = evaluation_of([{"name": name, "folders": [str(folder)]}])
    batch = Sample(databases, apply_evaluation(databases.doc_eval, located).numbers[name], name, folder)
    batch.stage()
    seen: list[Any] = [batch.knowledge(ROWS)]
    for leaving in (0, 4, 8):
        (folder / f"{leaving}.txt").unlink()
    write_old(folder / "new.txt", "document 20")
    seen += [rescanned(batch), batch.knowledge(ROWS)]
    for returning in (0, 8):
        write_old(folder / f"{returning}.txt", f"document {returning}")
    seen += [rescanned(batch), batch.knowledge(ROWS)]
    # Another program deletes rows of two ranges.
    batch.knowledge("DELETE FROM llm_responses WHERE document_id % 3 = 1 AND batch_id = :id")
    seen += [rescanned(batch), len(batch.knowledge(ROWS)), tallies(batch), rescanned(batch)]
    assert list(audit_installation(databases, lambda *_: None, every_document=True)) == []
    return seen


def number_of_ranges(databases: Databases) -> int:
    """How many ranges the documents of the first batch are now."""
    with databases.doc_eval.connect() as connection:
        (number,) = connection.execute(text("SELECT min(id) FROM batches")).one()
        return len(list(files.stored_ranges(connection, number)))


def rescanned(batch: Sample) -> Any:
    return reprocess(batch.databases, batch.id, Mode.missing, lambda *_: None, rescan=True)


def tallies(batch: Sample) -> Any:
    """Current rows by connection and outcome."""
    with batch.databases.doc_eval.connect() as own, batch.databases.knowledge.connect() as knowledge:
        sealed = read_snapshot(own, batch.id)
        assert sealed is not None
        config = sealed.config
        found = tally_rows(
            knowledge, batch.id, files.stored_ranges(own, batch.id), config["prompts"], config["connections"]
        )
    return sorted(found, key=repr)


def test_rows_their_places_and_all_counts_are_the_same_for_any_number_of_ranges(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_one = life(databases, tmp_path / "one", "one")
    for size in (1, 2, 4):
        monkeypatch.setattr(files, "DOCUMENTS", size)
        monkeypatch.setattr(files, "QUEUED_DOCUMENTS", size)
        assert number_of_ranges(databases) > 1
        monkeypatch.setattr(files, "PORTION", size)
        assert life(databases, tmp_path / str(size), f"in ranges of {size}") == in_one


def test_batches_that_assign_the_same_folder_at_once_share_its_files(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PORTION", 3)
    for number in range(40):
        write_old(tmp_path / f"{number:02}.txt", f"document {number}")
    names = [f"batch {letter}" for letter in "abcd"]
    located = evaluation_of([{"name": name, "folders": [str(tmp_path)]} for name in names])
    numbers = apply_evaluation(databases.doc_eval, located).numbers
    batches = [Sample(databases, numbers[name], name, tmp_path) for name in names]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Sample.stage, batches))
    assert batches[0].doc_eval("SELECT count(*) FROM documents") == [(40,)]
    assert batches[0].doc_eval("SELECT batch_id, count(*) FROM batch_documents GROUP BY 1 ORDER BY 1") == [
        (number, 40) for number in sorted(numbers.values())
    ]
