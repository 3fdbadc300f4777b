"""Results of earlier batches that are taken instead of asking again: which ones, and which never."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.staging.reprocessing import cancel
from doceval_pipeline.batches.staging.steps import (
    Queued,
    assign_documents,
    queue_evaluations,
    seal_batch,
    store_documents,
)
from doceval_pipeline.doc_eval import files
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate
from doceval_pipeline.domain.files import DocumentRange
from doceval_pipeline.knowledge import queue
from doceval_pipeline.knowledge.scores import read_current_results
from doceval_pipeline.knowledge.usage import read_experience, read_throughput
from doceval_pipeline_tests.batches.archiving.archives import WAITS_FOR_A_LOCK, quiet, restore_file
from doceval_pipeline_tests.cli.running import until
from doceval_pipeline_tests.conftest import Sample, write_old

MODEL = {"name": "model", "provider": "openai", "model": "m", "config": {"temperature": 0}}


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number in range(4):
        write_old(folder / f"{number}.txt", f"document {number}")
    return folder


def staged(databases: Databases, folder: Path, name: str, **keys: Any) -> tuple[int, Queued]:
    """A batch that reuses, with all four steps done; `model` and `text` change what is asked.

    `criterion` has the threshold and weight of the prompt.
    """
    connection = {**MODEL, **keys.pop("model", {})}
    prompt = {"name": keys.pop("prompt", "clarity"), "text": keys.pop("text", "Is it clear?")}
    prompt |= keys.pop("criterion", {})
    batch = {
        "name": name,
        "folders": [str(folder)],
        "connections": [connection["name"]],
        "prompts": [prompt["name"]],
        "reuse": "finished",
        **keys,
    }
    content = {"connections": [connection], "prompts": [prompt], "batches": [batch]}
    (number,) = apply_evaluation(databases.doc_eval, locate(content, None, key_path)).numbers.values()
    seal_batch(databases, number)
    assign_documents(databases, number)
    store_documents(databases, number, lambda *_: None)
    return number, queue_evaluations(databases, number)


def answer(databases: Databases, batch_id: int, **columns: Any) -> None:
    """Let a processor write the same result for every row of a batch that waits."""
    given = {"status": "S", "overall_score": 80, "response_text": "Clear.", "input_tokens": 100, **columns}
    assignments = ", ".join(f"{column} = :{column}" for column in given)
    with databases.knowledge.begin() as connection:
        connection.execute(
            text(f"UPDATE llm_responses SET {assignments} WHERE batch_id = :id AND status = 'QUEUED'"),
            {"id": batch_id, **given},
        )


def rows(databases: Databases, batch_id: int) -> list[Any]:
    with databases.knowledge.connect() as connection:
        return list(
            connection.execute(
                text("""
                    SELECT status, overall_score, response_text, input_tokens, reused_batch_id
                    FROM current_llm_responses WHERE batch_id = :id ORDER BY document_id"""),
                {"id": batch_id},
            )
        )


def test_the_same_question_about_the_same_document_is_asked_once(databases: Databases, inbox: Path) -> None:
    first, _ = staged(databases, inbox, "first")
    answer(databases, first)
    write_old(inbox / "4.txt", "a new document")
    second, queued = staged(databases, inbox, "second")
    assert (queued.added, queued.reused) == (5, 4)
    assert rows(databases, second)[:4] == [("S", 80.0, "Clear.", None, first)] * 4
    assert rows(databases, second)[4][0] == "QUEUED"
    # The origin is named, also by what was taken from what was taken.
    answer(databases, second)
    third, queued = staged(databases, inbox, "third")
    assert queued.reused == 5
    assert {row[4] for row in rows(databases, third)} == {first, second}


@pytest.mark.parametrize(
    "other",
    [
        {"text": "Is it brief?"},
        {"model": {"model": "another"}},
        {"model": {"provider": "azure"}},
        {"model": {"base_url": "http://127.0.0.1:1/v1"}},
        {"model": {"port": 4000}},
        {"model": {"config": {"temperature": 1}}},
        {"reuse": "nothing"},
    ],
)
def test_another_question_is_asked(databases: Databases, inbox: Path, other: dict[str, Any]) -> None:
    first, _ = staged(databases, inbox, "first")
    answer(databases, first)
    _, queued = staged(databases, inbox, "second", **other)
    assert (queued.added, queued.reused) == (4, 0)


@pytest.mark.parametrize(
    "same",
    [
        {"prompt": "another name"},
        {"model": {"name": "another name"}},
        {"model": {"api_key_env": "ANOTHER_KEY"}},
        {"model": {"prices": {"input_per_million": 1.0}}},
        {"margin": 3},
        {"criterion": {"threshold": 60, "weight": 2}},
    ],
)
def test_other_names_are_the_same_question(databases: Databases, inbox: Path, same: dict[str, Any]) -> None:
    first, _ = staged(databases, inbox, "first")
    answer(databases, first)
    second, queued = staged(databases, inbox, "second", **same)
    assert (queued.added, queued.reused) == (4, 4)
    with databases.knowledge.connect() as connection:
        sent = connection.scalars(
            text("SELECT to_jsonb(r)::text FROM llm_responses r WHERE batch_id = :id"), {"id": second}
        ).all()
    assert not any(word in row for row in sent for word in ("margin", "threshold", "weight"))


# By document: whether its result may be reused, and what is written to its row before. The first result is
# kept, except that a success follows a failure; one without a score, or under an unknown word, is not reused.
RESULTS = [
    (False, "status = 'F', error_message = 'overloaded'"),
    (False, "status = 'P'"),
    (False, "status = 'S', overall_score = 80, task_id = 'simulated-1'"),
    (False, "status = 'S'"),
    (False, "status = 's', overall_score = 80"),
    (False, "status = 'S', overall_score = 80; superseded_at = now()"),
    (False, "status = 'P'; superseded_at = now(); status = 'S', overall_score = 80"),
    (True, "status = 'COMPLETED', overall_score = 0"),
    (True, "status = 'F'; status = 'SUCCESS', overall_score = 80"),
    (True, "status = 'S', overall_score = 80; status = 'F', overall_score = 1"),
    (True, "status = 'S', overall_score = 80; withdrawn_at = now()"),
    (False, ""),
]


def test_only_a_real_scored_success_is_reused(databases: Databases, inbox: Path) -> None:
    for number in range(4, len(RESULTS)):
        write_old(inbox / f"{number}.txt", f"document {number}")
    first, _ = staged(databases, inbox, "first")
    with databases.knowledge.begin() as connection:
        numbers = connection.scalars(
            text("SELECT id FROM llm_responses ORDER BY split_part(file_name, '.', 1)::int")
        ).all()
        for number, (_, changes) in zip(numbers, RESULTS, strict=True):
            for change in filter(None, changes.split(";")):
                connection.execute(text(f"UPDATE llm_responses SET {change} WHERE id = :id"), {"id": number})
    # The one that still waits is closed as failed.
    cancel(databases, first)
    second, queued = staged(databases, inbox, "second")
    expected = [number for number, (is_answer, _) in zip(numbers, RESULTS, strict=True) if is_answer]
    with databases.knowledge.connect() as connection:
        reused = connection.scalars(
            text(
                "SELECT reused_from FROM llm_responses WHERE batch_id = :id AND reused_from IS NOT NULL "
                "ORDER BY 1"
            ),
            {"id": second},
        ).all()
    assert reused == sorted(expected)
    assert queued.reused == len(expected)


def past_the_guard(databases: Databases, statement: str) -> None:
    with databases.knowledge.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(statement))


def test_nothing_changes_a_reused_row_and_nothing_is_learnt_from_it(
    databases: Databases, inbox: Path
) -> None:
    first, _ = staged(databases, inbox, "first")
    answer(databases, first, time_taken_seconds=2)
    second, _ = staged(databases, inbox, "second")
    before = rows(databases, second)
    answer(databases, second, overall_score=1, status="F")
    with databases.knowledge.begin() as connection:
        connection.execute(
            text("""
            UPDATE llm_responses SET status = 'QUEUED', overall_score = 1, input_tokens = 9,
                                     time_taken_seconds = 9, completed_processing_at = now()""")
        )
        assert connection.execute(text("SELECT id FROM claim_responses(9)")).all() == []
        assert {measure for _, measure in read_experience(connection, first)}
        assert read_experience(connection, second) == {}
        results = read_current_results(connection, second)
        assert (results.tokens, results.times) == ([], {})
        assert read_throughput(connection, second) is None
    assert rows(databases, second) == before
    refused = (
        "reused_from = NULL",
        "reused_batch_id = -1",
        "status = 'F'",
        "input_tokens = 1",
        "deliveries = 1",
        "overall_score = NULL",
    )
    for change in refused:
        with pytest.raises(IntegrityError, match="reused_whole"):
            past_the_guard(databases, f"UPDATE llm_responses SET {change} WHERE batch_id = {second}")


def completed(databases: Databases, folder: Path, name: str) -> tuple[int, Queued]:
    number, queued = staged(databases, folder, name)
    answer(databases, number)
    poll(databases)
    return number, queued


def test_an_archived_origin_is_answered_for_by_one_that_reused_it(databases: Databases, inbox: Path) -> None:
    def archive_batch(number: int) -> Path:
        return archive(databases, number, quiet, quiet).path

    def answers() -> list[int]:
        with databases.knowledge.connect() as connection:
            found = connection.scalars(text("SELECT DISTINCT batch_id FROM llm_responses WHERE is_answer"))
            return sorted(found)

    def taken(name: str) -> tuple[int, set[int]]:
        number, queued = completed(databases, inbox, name)
        assert (queued.added, queued.reused) == (4, 4)
        return number, {row[4] for row in rows(databases, number)}

    first, _ = completed(databases, inbox, "first")
    taken("second")
    third, _ = taken("third")
    path = archive_batch(first)
    assert answers() == [third]
    assert taken("fourth")[1] == {first}
    archive_batch(third)
    assert answers() == [third + 1]
    restore_file(databases, path)
    assert answers() == [first, third + 1]
    assert taken("fifth")[1] == {first}
    assert list(audit_installation(databases, quiet, every_document=True)) == []


def test_results_that_are_just_taken_are_answers_once_their_batch_is_archived(
    databases: Databases, inbox: Path
) -> None:
    first, _ = completed(databases, inbox, "first")
    batch = Sample(databases, first, "", inbox)
    ((config,),) = batch.knowledge("SELECT config FROM batch_configs")
    ids = [row.id for row in batch.knowledge("SELECT id FROM docs ORDER BY id")]
    documents = [DocumentRange(ids, ["x"] * len(ids))]
    with ThreadPoolExecutor(1) as pool:
        # Not committed yet when the archiving comes to the rows.
        with databases.knowledge.begin() as connection:
            queue.publish_config(connection, 999, json.dumps(config), "0" * 64)
            added = queue.enqueue(
                connection, 999, documents, config["prompts"], config["connections"], 10, reuse=True
            )
            leaving = pool.submit(archive, databases, first, quiet, quiet)
            until(lambda: bool(batch.knowledge(WAITS_FOR_A_LOCK)))
        leaving.result()
    assert added.reused == 4
    assert batch.knowledge("SELECT batch_id, count(*) FROM llm_responses WHERE is_answer GROUP BY 1") == [
        (999, 4)
    ]


def test_results_are_taken_for_every_range_of_documents(
    databases: Databases, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    completed(databases, inbox, "first")
    write_old(inbox / "new.txt", "a new document")
    second, in_one = staged(databases, inbox, "second")
    monkeypatch.setattr(files, "QUEUED_DOCUMENTS", 2)
    third, in_ranges = staged(databases, inbox, "third")
    assert (in_ranges.reused, in_ranges.added) == (in_one.reused, in_one.added) == (4, 5)
    assert rows(databases, third) == rows(databases, second)
    assert list(audit_installation(databases, quiet, every_document=True)) == []


def test_a_second_staging_takes_and_queues_nothing(databases: Databases, inbox: Path) -> None:
    first, _ = staged(databases, inbox, "first")
    answer(databases, first)
    second, _ = staged(databases, inbox, "second")
    again = queue_evaluations(databases, second)
    assert (again.added, again.reused) == (0, 0)
    with databases.knowledge.connect() as connection:
        kept = connection.execute(
            text("SELECT sum(succeeded), sum(waiting) FROM response_deltas WHERE batch_id = :id"),
            {"id": second},
        ).one()
    assert tuple(kept) == (4, 0)
