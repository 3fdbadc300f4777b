"""`doceval failures` and what `doceval status BATCH` says about failures and thresholds."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.results import failures as failures_module
from doceval_pipeline.batches.results.failures import read_failures
from doceval_pipeline.batches.staging.steps import seal_batch
from doceval_pipeline.cli import cli
from doceval_pipeline.doc_eval.batches import batch_by_id
from doceval_pipeline.domain.results import KNOWN_PROCESSOR_LIMIT_BYTES
from doceval_pipeline.redaction import NOT_SHOWN
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]
# Of `doceval failures --json`: public interfaces.
KEYS = {
    "batch",
    "name",
    "partition",
    "status",
    "cells",
    "failed",
    "simulated",
    "all_groups",
    "ungrouped",
    "groups",
    "retry",
    "notes",
}
GROUP_KEYS = {
    "cells",
    "documents",
    "simulated",
    "message",
    "message_characters",
    "messages",
    "connections",
    "prompts",
    "document_names",
    "too_large",
    "hint",
}
KEY = "sk-abcdef0123456789abcdef0123"
FAIL = "UPDATE llm_responses SET status = 'F', error_message = :message WHERE batch_id = :id"
ANSWER = (
    "UPDATE llm_responses SET status = 'S', overall_score = 50 WHERE batch_id = :id AND status = 'QUEUED'"
)


def doceval(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def read_json(*arguments: str) -> Any:
    ended = doceval(*arguments, "--json")
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.stdout)


def set_status(batch: Sample, status: str, **columns: str) -> None:
    others = "".join(f", {column} = {value}" for column, value in columns.items())
    batch.doc_eval(f"UPDATE batches SET status = :status{others} WHERE id = :id", status=status)


def staged(batch_of: BatchOf, **counts: Any) -> Sample:
    batch = batch_of(**counts)
    batch.stage()
    return batch


def test_failures_are_groups_with_models_prompts_documents_and_the_command_that_retries(
    batch_of: BatchOf,
) -> None:
    batch = staged(batch_of, documents=7, connections=2, prompts=2)
    first, second = (
        number for (number,) in batch.knowledge("SELECT DISTINCT connection_id FROM llm_responses ORDER BY 1")
    )
    batch.knowledge(
        "UPDATE llm_responses SET status = 'F', error_message = 'HTTP 429: request ' || id || ' refused' "
        "WHERE connection_id = :first",
        first=first,
    )
    batch.knowledge(
        "UPDATE llm_responses SET status = 'F', task_id = 'simulated-1' WHERE id IN "
        "(SELECT id FROM llm_responses WHERE connection_id = :second ORDER BY prompt_id LIMIT 3)",
        second=second,
    )
    ended = doceval("failures", str(batch.id))
    assert ended.exit_code == 0
    heading, _, group, message, others, documents, *rest = ended.stdout.splitlines()
    assert heading == (
        f"{batch.key} sample: 17 of 28 evaluations failed (3 of them simulated), with 2 kinds of messages"
    )
    assert group == "14 evaluations of 7 documents; model model-0; prompts prompt-0, prompt-1"
    assert message.startswith("  HTTP 429: request ")
    assert others == "  13 other messages differ only in numbers, ids or names"
    assert documents.startswith("  documents: 00")
    assert documents.endswith(" and 2 more")
    assert rest[1] == "3 evaluations of 3 documents (simulated); model model-1; prompt prompt-0"
    assert rest[2] == "  (no message)"
    assert rest[-2] == "11 evaluations are not done yet; if some of them fail later, retry again"
    assert rest[-1] == f"retry exactly these: doceval reprocess {batch.id} --failed"
    everything = doceval("failures", "sample", "--all").stdout
    assert ", ".join(f"{number:03}.txt" for number in range(7)) in everything
    found = read_json("failures", "sample")
    assert set(found) == KEYS
    assert all(set(each) == GROUP_KEYS for each in found["groups"])
    assert [(each["cells"], each["message"]) for each in found["groups"]][1] == (3, None)
    assert found["retry"] == [f"doceval reprocess {batch.id} --failed"]


def test_a_batch_without_failures_says_so_in_one_line(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=1)
    batch.knowledge(ANSWER)
    ended = doceval("failures", str(batch.id))
    assert (ended.exit_code, ended.stdout) == (0, f"{batch.key} sample: none of 4 evaluations failed\n")
    assert read_json("failures", str(batch.id))["groups"] == []
    assert read_json("failures", str(batch.id))["retry"] == []


@pytest.mark.parametrize("status", ["SAVED", "FAILED_STAGING", "STAGING"])
def test_a_batch_that_was_never_staged_is_refused_in_one_line(batch_of: BatchOf, status: str) -> None:
    batch = batch_of(documents=1)
    seal_batch(batch.databases, batch.id)
    set_status(batch, status)
    ended = doceval("failures", "sample")
    assert isinstance(ended.exception, Exception)
    assert "has no evaluations" in str(ended.exception)
    assert len(str(ended.exception).splitlines()) == 1


def test_an_archived_or_unknown_batch_is_refused_in_one_line(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=1)
    set_status(
        batch, "COMPLETED", archived_at="now()", archive_file="'one.zip'", archive_sha256="repeat('0', 64)"
    )
    assert "is archived: run doceval restore" in str(doceval("failures", "sample").exception)
    assert "does not exist" in str(doceval("failures", "nobody").exception)


@pytest.mark.parametrize(
    ("status", "columns", "retry", "note"),
    [
        ("COMPLETED", {}, ["doceval reprocess {} --failed"], []),
        ("STAGED", {}, ["doceval reprocess {} --failed"], []),
        ("PAUSED", {}, ["doceval resume {}", "doceval reprocess {} --failed"], ["is paused: "]),
        (
            "PAUSED",
            {"held_reason": "'too dear'"},
            ["doceval resume {}", "doceval reprocess {} --failed"],
            ["is held (too dear): "],
        ),
        ("FAILED", {"cancelled_at": "now()"}, ["doceval reprocess {} --failed"], ["was cancelled: "]),
        ("FAILED_STAGING", {}, ["doceval stage {}", "doceval reprocess {} --failed"], []),
    ],
    ids=["completed", "open", "paused", "held", "cancelled", "staging failed"],
)
def test_the_commands_that_retry_fit_the_state_of_the_batch(
    batch_of: BatchOf, status: str, columns: dict[str, str], retry: list[str], note: list[str]
) -> None:
    batch = staged(batch_of, documents=1, connections=1, prompts=1)
    batch.knowledge(FAIL, message="no")
    set_status(batch, status, **columns)
    found = read_json("failures", "sample")
    assert found["retry"] == [line.format(batch.id) for line in retry]
    assert len(found["notes"]) == len(note)
    assert all(part in sentence for part, sentence in zip(note, found["notes"], strict=True))
    last = doceval("failures", "sample").stdout.splitlines()[-1]
    assert last == f"retry exactly these: {', then '.join(found['retry'])}"


def test_messages_cannot_control_a_terminal_and_show_no_key(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=1, connections=1, prompts=1)
    hostile = f"\x1b[2J\x1b]0;x\x07 \u202eevil [bold]no[/] key {KEY} \r\n second line"
    batch.plant("UPDATE llm_responses SET status = 'F', error_message = :message", message=hostile)
    for arguments in (["failures", "sample"], ["failures", "sample", "--all"], ["status", "sample"]):
        shown = doceval(*arguments).stdout
        assert "[bold]no[/]" in shown
        assert NOT_SHOWN in shown
        assert KEY not in shown
        assert not set(shown) & {"\x1b", "\x07", "\u202e", "\r"}
    for arguments in (["failures", "sample"], ["status", "sample"]):
        assert KEY not in doceval(*arguments, "--json").stdout


def test_messages_of_16_mib_are_cut_and_told_apart(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=4, connections=1, prompts=1)
    batch.knowledge(
        "UPDATE llm_responses SET status = 'F', error_message = "
        "repeat('é', 8388000) || CASE WHEN id % 2 = 0 THEN 'a' ELSE 'b' END"
    )
    (group,) = read_json("failures", "sample")["groups"]
    assert (group["cells"], group["messages"]) == (4, 2)
    assert group["message"] == "é" * 2_000
    assert group["message_characters"] == 8_388_001
    assert len(doceval("failures", "sample").stdout) < 1_000
    assert len(doceval("failures", "sample", "--all").stdout) < 3_000
    batch.plant("UPDATE llm_responses SET error_message = repeat(' ', 16777216)")
    (blank,) = read_json("failures", "sample")["groups"]
    assert blank["message"] is None


def test_the_limit_of_the_known_processor_is_hinted_at_where_it_applies(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=2, connections=1, prompts=1)
    batch.knowledge(FAIL, message="Incorrect padding")
    assert "known processor" not in doceval("failures", "sample").stdout
    size = KNOWN_PROCESSOR_LIMIT_BYTES + 1
    batch.plant(
        "UPDATE docs SET file_size = :size, content = repeat('A', 4 * ((:size + 2) / 3)) "
        "WHERE id = (SELECT min(id) FROM docs)",
        size=size,
    )
    shown = doceval("failures", "sample").stdout
    assert "the stored data is correct: the known processor cuts base64" in shown
    assert "1 of these 2 documents is larger" in shown
    assert read_json("failures", "sample")["groups"][0]["too_large"] == 1


def test_only_the_most_frequent_messages_are_compared_and_the_others_are_counted(
    batch_of: BatchOf, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = staged(batch_of, documents=6, connections=1, prompts=1)
    batch.knowledge(
        "UPDATE llm_responses SET status = 'F', error_message = CASE WHEN id % 2 = 0 THEN 'same' ELSE "
        "translate(id::text, '0123456789', 'abcdefghij') END"
    )
    with databases.doc_eval.connect() as connection:
        record = batch_by_id(connection, batch.id)
    whole = read_failures(databases, record, groups=10, names=1)
    assert (whole.failures.kinds, whole.failures.ungrouped) == (4, 0)
    assert sum(named.group.cells for named in whole.groups) == whole.failures.cells == 6
    monkeypatch.setattr(failures_module, "MESSAGES_COMPARED", 2)
    part = read_failures(databases, record, groups=1, names=1)
    assert (part.failures.kinds, part.failures.cells, part.failures.ungrouped) == (2, 6, 2)
    assert [named.group.cells for named in part.groups] == [3]
    shown = doceval("failures", "sample").stdout
    assert "with over 2 kinds of messages" in shown
    assert "2 more failed evaluations have rarer messages, which are not grouped" in shown


def test_names_of_documents_are_bounded_over_all_groups(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = staged(batch_of, documents=4, connections=1, prompts=1)
    batch.knowledge(
        "UPDATE llm_responses SET status = 'F', error_message = CASE WHEN id % 2 = 0 THEN 'x' ELSE 'y' END"
    )
    monkeypatch.setattr(failures_module, "ALL_NAMES", 3)
    groups = read_json("failures", "sample")["groups"]
    assert [len(group["document_names"]) for group in groups] == [2, 1]
    assert [group["documents"] for group in groups] == [2, 2]


def test_connections_to_one_model_are_called_connections(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.doc_eval("UPDATE connections SET model_id = (SELECT min(model_id) FROM connections)")
    batch.stage()
    batch.knowledge(FAIL, message="no")
    assert "; connections model-0, model-1; " in doceval("failures", "sample").stdout


def test_status_of_a_named_batch_has_its_largest_group_of_failures(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=3, connections=1, prompts=1)
    other = staged(batch_of, documents=1, connections=1, prompts=1, name="other")
    batch.knowledge(FAIL, message="x" * 500)
    batch.plant(
        "UPDATE llm_responses SET error_message = 'rare' WHERE id = (SELECT max(id) FROM llm_responses "
        "WHERE batch_id = :batch)",
        batch=batch.id,
    )
    lines = doceval("status", "sample", "other").stdout.splitlines()
    (line,) = [line for line in lines if "doceval failures" in line]
    assert line == f"{batch.key}: 2 of 3 failures: {'x' * 119}… — doceval failures {batch.id}"
    found, of_other = read_json("status", "sample", "other")
    assert found["first_failure"] == {"cells": 2, "documents": 2, "message": "x" * 500, "simulated": 0}
    assert found["below_threshold"] == []
    assert (of_other["batch"], of_other["first_failure"]) == (other.id, None)
    assert "doceval failures" not in doceval("status").stdout, "nothing is read without BATCH"
    assert read_json("status")[0]["first_failure"] is None
    assert read_json("status")[0]["below_threshold"] is None


def test_status_of_a_named_batch_counts_the_documents_below_a_threshold(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=4, connections=2, prompts=2)
    assert "fall" not in doceval("status", "sample").stdout
    batch.doc_eval("UPDATE prompts SET threshold = 60 WHERE name = 'prompt-0'")
    # By document: 59.9 and 60, 60 and 60, 10 and 20, 10 and a failure.
    batch.knowledge("""
        UPDATE llm_responses AS r
        SET status = CASE WHEN s.score IS NULL THEN 'F' ELSE 'S' END, overall_score = s.score
        FROM (SELECT id, (ARRAY[59.9, 60, 60, 60, 10, 20, 10, NULL])[
                  row_number() OVER (PARTITION BY prompt_id ORDER BY document_id, connection_id)] AS score
              FROM llm_responses) AS s WHERE s.id = r.id
    """)
    assert (
        f"{batch.key}: 3 documents fall below 60 for prompt-0, of 4 with a score\n"
        in doceval("status", "sample").stdout
    )
    (found,) = read_json("status", "sample")
    assert found["below_threshold"] == [
        {
            "prompt": "prompt-0",
            "threshold": 60,
            "documents": 3,
            "scored": 4,
            "simulated": 0,
            "by_connection": [
                {"connection": "model-0", "documents": 3},
                {"connection": "model-1", "documents": 1},
            ],
        }
    ]
    batch.plant("UPDATE llm_responses SET task_id = 'simulated-1'")
    assert "of 4 with a score (simulated)" in doceval("status", "sample").stdout
    batch.doc_eval("UPDATE prompts SET threshold = 5 WHERE name = 'prompt-0'")
    assert "fall" not in doceval("status", "sample").stdout
    assert read_json("status", "sample")[0]["below_threshold"][0]["documents"] == 0
