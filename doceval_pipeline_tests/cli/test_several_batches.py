"""Commands over several batches: what became of each, and a total."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring import status as monitoring
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.cli import cli, status
from doceval_pipeline_tests.cli.running import DOCEVAL, until
from doceval_pipeline_tests.conftest import Sample, sample_batch


@pytest.fixture
def batches(databases: Databases, instance: dg.DagsterInstance, tmp_path: Path) -> list[Sample]:
    """q-0 to q-3: completed with 0, 1 and 2 failed evaluations, and one that was never staged."""
    made = [sample_batch(databases, tmp_path, 1, 1, 2, f"q-{number}") for number in range(4)]
    for number, batch in enumerate(made[:3]):
        batch.stage()
        failed = "UPDATE llm_responses SET status = 'F' WHERE id IN (SELECT id FROM llm_responses "
        batch.knowledge(f"{failed} WHERE batch_id = :id ORDER BY id LIMIT :n)", n=number)
        batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE batch_id = :id AND status = 'QUEUED'")
    poll(databases)
    return made


def doceval(*arguments: str) -> Result:
    """Run a command in this process, which has Dagster imported already."""
    return CliRunner().invoke(cli, arguments)


def waiting(batches: list[Sample]) -> list[int]:
    statement = "SELECT count(*) FROM llm_responses WHERE batch_id = :id AND status = 'QUEUED'"
    return [batch.knowledge(statement)[0][0] for batch in batches]


def test_a_batch_that_fails_stops_no_other_and_the_last_line_is_a_total(batches: list[Sample]) -> None:
    ended = doceval("reprocess", "q-[123]", "nobody", batches[1].key, "--failed")
    assert ended.exit_code == 1
    assert [line.split(": ")[0] for line in ended.stdout.splitlines()] == [
        f"{batches[1].key} STAGED",
        f"{batches[2].key} FAILED" if batches[2].status() == "FAILED" else f"{batches[2].key} STAGED",
        "2 of 3 batches done, 2 failed",
    ]
    assert ended.stdout.splitlines()[-1].endswith("3 new attempts")
    assert ended.stderr.splitlines() == [
        "batch 'nobody' does not exist: doceval list shows the batches",
        f"{batches[3].key} is SAVED and has nothing to reprocess: stage it first",
    ]
    assert waiting(batches) == [0, 1, 2, 0]


def test_closed_batches_with_failures_are_found_planned_and_reprocessed(batches: list[Sample]) -> None:
    planned = doceval("reprocess", "--with-failures", "--dry-run")
    assert planned.exit_code == 0, planned.stderr
    assert planned.stdout.splitlines()[-1] == (
        "2 of 2 batches done: 0 evaluations to add, 0 evaluations to reuse, 3 new attempts to add, "
        "0 documents to store"
    )
    assert waiting(batches) == [0, 0, 0, 0]
    # What a person cancelled has not failed.
    batches[2].doc_eval("UPDATE batches SET cancelled_at = now() WHERE id = :id")
    planned = doceval("reprocess", "--with-failures", "--dry-run")
    assert planned.stdout.splitlines()[-1].startswith("1 of 1 batches done")
    batches[2].doc_eval("UPDATE batches SET cancelled_at = NULL WHERE id = :id")
    ended = doceval("reprocess", "--with-failures", "--json")
    assert ended.exit_code == 0, ended.stderr
    assert [(one["batch"], one["done"]["new_attempts"]) for one in json.loads(ended.stdout)] == [
        (batches[1].id, 1),
        (batches[2].id, 2),
    ]
    assert waiting(batches) == [0, 1, 2, 0]
    assert doceval("reprocess", "--with-failures").stdout == "no closed batch has failed evaluations\n"
    assert "Missing argument" in doceval("reprocess", "--failed").stderr


def test_data_of_one_named_batch_is_an_object_and_of_several_a_list(batches: list[Sample]) -> None:
    def printed(*arguments: str) -> Any:
        return json.loads(doceval(*arguments, "--json").stdout)

    assert printed("report", "q-0")["batch"] == batches[0].id
    assert [one["batch"] for one in printed("report", "q-[0]")] == [batches[0].id]
    both = printed("pause", "q-3", "q-0")
    assert [one["partition"] for one in both] == [batches[3].key, batches[0].key]
    assert all("cannot be paused" in one["error"] for one in both)
    assert [one["batch"] for one in printed("status", "q-3", "q-[01]")] == [
        batches[number].id for number in (3, 0, 1)
    ]


def test_batches_are_staged_held_released_closed_and_archived_by_pattern(batches: list[Sample]) -> None:
    last = batches[3]
    for command, line in (
        (["stage", "q-3*"], "1 of 1 batches done: 1 documents, 2 evaluations"),
        (["pause", "q-3*"], "1 of 1 batches done: 2 rows held"),
        (["resume", "q-3*"], "1 of 1 batches done: 2 rows released"),
        (["cancel", "q-3*"], "1 of 1 batches done: 2 rows closed"),
    ):
        ended = doceval(*command)
        assert (ended.exit_code, ended.stdout.splitlines()[-1]) == (0, line), ended.stderr
    poll(last.databases)
    for _ in range(2):
        assert "4 of 4 batches done: 8 rows, 4 documents" in doceval("archive", "q-*").stdout
    assert "are archived (4): doceval restore" in str(doceval("stage", "q-*").exception)


def test_ctrl_c_tells_what_was_done(batches: list[Sample]) -> None:
    for batch in batches[:3]:
        batch.knowledge("DELETE FROM reprocess_requests")
    # The last one is held up by a lock, so that the signal comes in the middle.
    pause_lock = "SELECT pg_advisory_lock(0x646f6365, :id)"
    with batches[2].databases.doc_eval.connect() as connection:
        connection.exec_driver_sql(
            pause_lock.replace("0x646f6365", str(0x646F6365)).replace(":id", str(batches[2].id))
        )
        process = subprocess.Popen(
            [DOCEVAL, "reprocess", "q-[012]", "--all"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith(batches[0].key)
        assert process.stdout.readline().startswith(batches[1].key)
        # Not in between: the third one waits for its lock.
        until(
            lambda: batches[2].doc_eval("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        )
        process.send_signal(signal.SIGINT)
        connection.invalidate()
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert said.splitlines()[-1].startswith("2 of 3 batches done, 1 failed")
    assert errors == f"{batches[2].key}: interrupted; repeat the command to continue\n"


def test_an_overview_shows_each_open_batch_and_the_newest_and_counts_the_others(
    batches: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "NEWEST_SHOWN", 1)
    opened, newest = batches[1], batches[3]
    opened.doc_eval("UPDATE batches SET status = 'ANALYZING' WHERE id = :id")
    shown = doceval("status").stdout
    assert [batch.key for batch in batches if f"{batch.key} " in shown] == [opened.key, newest.key]
    assert "2 older closed batches are not shown: doceval list shows them" in shown
    opened.doc_eval(
        "UPDATE batches SET archived_at = now(), archive_file = 'a', archive_sha256 = repeat('0', 64)"
        " WHERE id = :id"
    )
    assert "3 older closed batches are not shown" in doceval("status").stdout


def test_a_watch_of_the_overview_tells_the_end_of_a_batch_that_is_no_longer_among_the_newest(
    batches: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "NEWEST_SHOWN", 0)
    opened = batches[1]
    batches[3].doc_eval("UPDATE batches SET status = 'FAILED_STAGING', failure_reason = 'why' WHERE id = :id")
    opened.doc_eval("UPDATE batches SET status = 'ANALYZING' WHERE id = :id")

    def finish(_: float) -> None:
        opened.doc_eval("UPDATE batches SET status = 'COMPLETED' WHERE id = :id")

    monkeypatch.setattr(status.time, "sleep", finish)
    lines = doceval("status", "--watch").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        [opened.key, "ANALYZING"],
        [batches[3].key, "FAILED_STAGING"],
        [opened.key, "COMPLETED"],
    ]


@pytest.mark.parametrize("portion", [1, 3, 1_000])
def test_an_overview_as_json_has_every_batch_in_whatever_portions_they_are_read(
    batches: list[Sample], monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    monkeypatch.setattr(monitoring, "NEWEST_SHOWN", 1)
    monkeypatch.setattr(monitoring, "PORTION", portion)
    printed = doceval("status", "--json").stdout
    found = json.loads(printed)
    assert [each["batch"] for each in found] == [batch.id for batch in batches]
    assert printed == json.dumps(found, indent=2) + "\n"
    named = json.loads(doceval("status", "q-*", "--json").stdout)
    for each in named:
        each |= {"first_failure": None, "below_threshold": None}
    assert found == named
