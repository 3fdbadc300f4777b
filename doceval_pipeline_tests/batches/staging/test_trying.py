"""A sample of a batch is a batch of its own; whatever is killed, it keeps its documents."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.trial_results import read_trial_results
from doceval_pipeline.batches.staging import trying
from doceval_pipeline.batches.staging.planning import plan
from doceval_pipeline.batches.staging.reprocessing import Mode
from doceval_pipeline.batches.staging.rescanning import rescan_folders
from doceval_pipeline.batches.staging.trying import (
    MadeTrial,
    Trial,
    complete_trial,
    estimate_whole,
    make_trial,
)
from doceval_pipeline.doc_eval.baselines import drift_baseline, latest_overlapping_batch
from doceval_pipeline.doc_eval.batches import BatchRecord, find_batch
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.lifecycle import Status
from doceval_pipeline.doc_eval.runs.requests import RunKind, due_requests
from doceval_pipeline.documents.reading import UNREADABLE, DocumentRejected
from doceval_pipeline.errors import BatchStateError, StagingError
from doceval_pipeline.names import LONGEST
from doceval_pipeline_tests.conftest import Sample, evaluation_of, write_old

BatchOf = Callable[..., Sample]
SOURCE = """
    SELECT b::text, (SELECT count(*) FROM batch_documents WHERE batch_id = b.id) FROM batches b WHERE id = :id
"""


def record(batch: Sample) -> BatchRecord:
    return find_batch(batch.databases.doc_eval, str(batch.id))


def tried(batch: Sample, documents: int = 3, seed: int | None = 7) -> tuple[MadeTrial, Sample]:
    made = make_trial(batch.databases, record(batch), documents, seed, lambda *_: None)
    return made, Sample(batch.databases, made.batch_id, made.name, batch.folder)


def files(batch: Sample) -> list[str]:
    rows = batch.doc_eval(
        "SELECT d.filepath FROM batch_documents b JOIN documents d ON d.id = b.document_id "
        "WHERE b.batch_id = :id AND b.state IN ('ASSIGNED', 'STAGED') ORDER BY 1"
    )
    return [path for (path,) in rows]


def finish(batch: Sample) -> None:
    batch.knowledge(
        "UPDATE llm_responses SET status = 'S', overall_score = 40 + id % 5, input_tokens = 100 + id % 3, "
        "output_tokens = 10, time_taken_seconds = 2 WHERE batch_id = :id AND status = 'QUEUED'"
    )


def test_the_batch_itself_stays_as_it_was(batch_of: BatchOf) -> None:
    batch = batch_of(documents=8)
    before = batch.doc_eval(SOURCE)
    made, sample = tried(batch)
    assert batch.doc_eval(SOURCE) == before
    assert (batch.status(), sample.status()) == ("SAVED", "SAVED")
    sample.stage()
    assert batch.doc_eval(SOURCE) == before
    assert sample.knowledge("SELECT count(*) FROM llm_responses WHERE batch_id = :id") == [(12,)]
    assert made.trial == Trial(batch.id, "sample", 3, 7, 8)
    assert Trial.of(record(sample)) == made.trial


def test_a_sample_has_the_choice_of_its_batch(batch_of: BatchOf) -> None:
    batch = batch_of(documents=8)
    batch.doc_eval(
        "UPDATE batches SET include_patterns = '{*.txt}', priority = 20, reuse = 'finished', margin = 3, "
        'meta_data = \'{"owner": "legal"}\''
    )
    _, sample = tried(batch)
    ((config,),) = sample.doc_eval("SELECT config_snapshot FROM batches WHERE id = :id")
    assert [p["name"] for p in config["prompts"]] == ["prompt-0", "prompt-1"]
    assert [c["name"] for c in config["connections"]] == ["model-0", "model-1"]
    assert [f["path"] for f in config["folders"]] == [str(batch.folder)]
    assert (config["batch"]["include"], config["batch"]["margin"]) == (["*.txt"], 3)
    found = record(sample)
    assert (found.priority, found.reuse, found.metadata["owner"]) == (20, "finished", "legal")
    assert found.metadata["try"]["seed"] == 7


def test_the_same_seed_gives_the_same_documents_and_names_differ(batch_of: BatchOf) -> None:
    batch = batch_of(documents=20)
    (first, one), (second, two), (third, three) = tried(batch), tried(batch), tried(batch, seed=8)
    assert files(one) == files(two) != files(three)
    assert second.name == f"{first.name} (2)"
    assert third.name == f"{first.name} (3)"
    made, random = tried(batch, seed=None)
    _, again = tried(batch, seed=made.trial.seed)
    assert files(random) == files(again)


def test_a_long_name_leaves_room_for_the_ending(batch_of: BatchOf) -> None:
    batch = batch_of(documents=3)
    batch.doc_eval("UPDATE batches SET batch_name = :name", name="x" * LONGEST)
    (first, _), (second, _) = tried(batch), tried(batch)
    assert len(first.name) == len(second.name) == LONGEST
    assert second.name.endswith(" (2)")


def test_staging_it_again_after_a_kill_gives_the_same_documents(batch_of: BatchOf) -> None:
    batch = batch_of(documents=20)
    _, sample = tried(batch)
    drawn = files(sample)
    with sample.databases.doc_eval.connect() as connection:
        assert [due.batch_id for due in due_requests(connection, RunKind.STAGE)] == [sample.id]
    write_old(batch.folder / "another.txt", "another")
    sample.stage()
    sample.stage()
    assert files(sample) == drawn
    with sample.databases.doc_eval.connect() as connection:
        assert due_requests(connection, RunKind.STAGE) == []
    assert list(audit_installation(sample.databases, lambda *_: None, every_document=True)) == []


def test_nothing_is_left_of_a_sample_that_was_not_committed(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(documents=5)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trying, "request_staging", killed)
    with pytest.raises(KeyboardInterrupt):
        tried(batch)
    assert batch.doc_eval("SELECT count(*) FROM batches") == [(1,)]
    assert batch.doc_eval("SELECT count(*) FROM batch_documents") == [(0,)]


def test_a_rescan_adds_none_of_the_other_files(batch_of: BatchOf) -> None:
    batch = batch_of(documents=20)
    _, sample = tried(batch)
    sample.stage()
    drawn = files(sample)
    write_old(batch.folder / drawn[0], "changed")
    (batch.folder / drawn[1]).unlink()
    found = rescan_folders(sample.databases, sample.id)
    assert (found.new, found.changed, found.gone) == (0, 1, 1)
    assert files(sample) == [drawn[0], drawn[2]]
    planned = plan(sample.databases, sample.id, Mode.missing, lambda *_: None, rescan=True)
    assert planned.documents.added + planned.documents.reused == 2


def test_copies_count_once(batch_of: BatchOf) -> None:
    batch = batch_of(documents=3)
    for number in range(9):
        shutil.copy2(batch.folder / "001.txt", batch.folder / f"copy {number}.txt")
    made, sample = tried(batch, documents=5)
    sample.stage()
    assert (files(sample), made.trial.files_found) == (["000.txt", "001.txt", "002.txt"], 12)
    assert made.notes == ("there are only 3 documents: the sample has all of them",)


def test_a_batch_that_is_done_can_be_tried_and_an_archived_one_cannot(batch_of: BatchOf) -> None:
    batch = batch_of(documents=6)
    batch.stage()
    finish(batch)
    poll(batch.databases)
    before = batch.doc_eval(SOURCE)
    _, sample = tried(batch)
    sample.stage()
    assert batch.doc_eval(SOURCE) == before
    archive(batch.databases, batch.id, lambda *_: None, lambda *_: None)
    with pytest.raises(BatchStateError, match=f"{batch.key} is archived: run doceval restore "):
        tried(batch)
    assert batch.doc_eval("SELECT count(*) FROM batches") == [(2,)]


def test_a_sample_of_a_sample_has_only_its_documents(batch_of: BatchOf) -> None:
    batch = batch_of(documents=20)
    _, sample = tried(batch, documents=4)
    made, inner = tried(sample, documents=2)
    assert set(files(inner)) < set(files(sample))
    assert (made.trial.batch, made.trial.files_found) == (sample.id, 4)


@pytest.mark.parametrize("what", ["empty", "missing", "patterns"])
def test_without_a_document_nothing_is_made(batch_of: BatchOf, what: str) -> None:
    batch = batch_of(documents=2)
    if what == "empty":
        for file in batch.folder.iterdir():
            file.unlink()
    elif what == "missing":
        os.rename(batch.folder, batch.folder.with_name("elsewhere"))
    else:
        batch.doc_eval("UPDATE batches SET include_patterns = '{*.pdf}'")
    with pytest.raises(StagingError) as refused:
        tried(batch)
    assert "\n" not in str(refused.value)
    assert batch.doc_eval("SELECT count(*) FROM batches") == [(1,)]


def test_files_that_cannot_be_read_are_not_drawn(batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(documents=4)

    def read(folder: str, path: bytes, limit: int, etag: str | None) -> tuple[str, int]:
        if path != b"002.txt":
            raise DocumentRejected(UNREADABLE)
        return "ab", 2

    monkeypatch.setattr(trying, "hash_document", read)
    _, sample = tried(batch, documents=2)
    assert files(sample) == ["002.txt"]
    monkeypatch.setattr(trying, "hash_document", lambda *_: read("", b"", 0, None))
    with pytest.raises(StagingError, match="no document that can be read"):
        tried(batch)


def test_it_is_completed_and_counted_without_a_daemon(batch_of: BatchOf) -> None:
    batch = batch_of(documents=8, connections=2, prompts=1)
    batch.doc_eval(
        """UPDATE connections SET prices = '{"input_per_million": 10, "output_per_million": 0}'
           WHERE name = 'model-0'"""
    )
    made, sample = tried(batch, documents=4)
    assert complete_trial(sample.databases, record(sample)).status is Status.SAVED
    sample.stage()
    assert complete_trial(sample.databases, record(sample)).status is Status.STAGED
    sample.knowledge(
        "UPDATE llm_responses SET status = 'F', input_tokens = 101, output_tokens = 10 WHERE id = ("
        "SELECT id FROM llm_responses WHERE batch_id = :id ORDER BY connection_id, id LIMIT 1)"
    )
    finish(sample)
    assert complete_trial(sample.databases, record(sample)).status is Status.COMPLETED
    results = [result.as_json() for result in read_trial_results(sample.databases, sample.id)]
    assert [(r["connection"], r["succeeded"], r["failed"]) for r in results] == [
        ("model-0", 3, 1),
        ("model-1", 4, 0),
    ]
    assert results[0]["cost_per_document"] == pytest.approx(101e-5, rel=0.02)
    assert results[0]["input_tokens"] == pytest.approx(101, rel=0.02)
    assert results[1]["cost_per_document"] is None, "an unknown price is unknown"
    assert all(40 <= r["mean_score"] <= 44 for r in results)
    whole = estimate_whole(sample.databases, made.trial)
    assert whole is not None
    assert (whole.documents, whole.counts_files, whole.evaluations) == (8, True, 16)
    first, second = (estimate.as_json() for estimate in whole.estimates)
    assert first["cost"][1] == pytest.approx(8 * 101e-5, rel=0.05)
    assert (first["basis"], second["cost"]) == ("experience", None)


def test_the_whole_is_estimated_from_stored_documents_and_only_where_it_is(batch_of: BatchOf) -> None:
    batch = batch_of(documents=6)
    made, sample = tried(batch)
    batch.stage()
    os.rename(batch.folder, batch.folder.with_name("elsewhere"))
    whole = estimate_whole(sample.databases, made.trial)
    assert whole is not None
    assert (whole.documents, whole.counts_files, whole.evaluations) == (6, False, 24)
    assert estimate_whole(sample.databases, replace(made.trial, name="other")) is None
    assert estimate_whole(sample.databases, replace(made.trial, batch=10_000)) is None


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"try": None},
        {"try": 5},
        {"try": {"batch": 1}},
        {"try": {"batch": "1", "name": "a", "documents": 1, "seed": 1, "files_found": 1}},
        {"try": {"batch": True, "name": "a", "documents": 1, "seed": 1, "files_found": 1}},
        {"try": {"batch": 1, "name": 5, "documents": 1, "seed": 1, "files_found": 1}},
        {"try": {"batch": -1, "name": "a", "documents": 1, "seed": 1, "files_found": 1}},
        {"try": {"batch": 1, "name": "a", "documents": 1e300, "seed": 1, "files_found": 1}},
    ],
)
def test_metadata_of_people_is_no_sample(batch_of: BatchOf, metadata: dict[str, Any]) -> None:
    assert Trial.of(replace(record(batch_of(documents=1)), metadata=metadata)) is None


def test_a_number_beyond_the_column_is_not_here(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    assert estimate_whole(batch.databases, Trial(2**50, "sample", 1, 1, 1)) is None


def test_a_sample_is_no_baseline_of_the_whole(batch_of: BatchOf) -> None:
    batch = batch_of(documents=6)
    made, sample = tried(batch)
    located = evaluation_of([{"name": "later", "folders": [str(batch.folder)]}])
    number = apply_evaluation(batch.databases.doc_eval, located).numbers["later"]
    later = Sample(batch.databases, number, "later", batch.folder)
    for each in (sample, later):
        each.stage()
        finish(each)
        assert complete_trial(each.databases, record(each)).status is Status.COMPLETED
    with batch.databases.doc_eval.connect() as connection:
        assert latest_overlapping_batch(connection, later.id) is None
        assert drift_baseline(connection, later.id) is None
    batch.doc_eval("UPDATE batches SET meta_data = '{\"try\": true}' WHERE id = :made", made=made.batch_id)
    with batch.databases.doc_eval.connect() as connection:
        assert drift_baseline(connection, later.id) == sample.id
