"""Results of earlier batches that are taken instead of asking again: which ones, and which never."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging import (
    Queued,
    assign_documents,
    queue_cells,
    seal_batch,
    store_documents,
)
from doceval_pipeline.doc_eval.apply import apply_evaluation
from doceval_pipeline.doc_eval.evaluation_file import key_path, locate
from doceval_pipeline_tests.conftest import write_old

MODEL = {"name": "model", "provider": "openai", "model": "m", "config": {"temperature": 0}}


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number in range(4):
        write_old(folder / f"{number}.txt", f"document {number}")
    return folder


def staged(databases: Databases, folder: Path, name: str, **keys: Any) -> tuple[int, Queued]:
    """A batch that reuses, with all four steps done; `model` and `text` change what is asked."""
    connection = {**MODEL, **keys.pop("model", {})}
    prompt = {"name": keys.pop("prompt", "clarity"), "text": keys.pop("text", "Is it clear?")}
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
    return number, queue_cells(databases, number)


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
    ],
)
def test_other_names_are_the_same_question(databases: Databases, inbox: Path, same: dict[str, Any]) -> None:
    first, _ = staged(databases, inbox, "first")
    answer(databases, first)
    _, queued = staged(databases, inbox, "second", **same)
    assert (queued.added, queued.reused) == (4, 4)


@pytest.mark.parametrize(
    "result",
    [
        {"status": "F", "error_message": "overloaded"},
        {"status": "P"},
        {"status": "S", "task_id": "simulated-1"},
    ],
)
def test_what_has_no_real_result_is_asked_again(
    databases: Databases, inbox: Path, result: dict[str, Any]
) -> None:
    first, _ = staged(databases, inbox, "first")
    answer(databases, first, **result)
    _, queued = staged(databases, inbox, "second")
    assert queued.reused == 0


def test_a_second_staging_takes_and_queues_nothing(databases: Databases, inbox: Path) -> None:
    first, _ = staged(databases, inbox, "first")
    answer(databases, first)
    second, _ = staged(databases, inbox, "second")
    again = queue_cells(databases, second)
    assert (again.added, again.reused) == (0, 0)
    with databases.knowledge.connect() as connection:
        kept = connection.execute(
            text("SELECT sum(succeeded), sum(waiting) FROM response_deltas WHERE batch_id = :id"),
            {"id": second},
        ).one()
    assert tuple(kept) == (4, 0)
