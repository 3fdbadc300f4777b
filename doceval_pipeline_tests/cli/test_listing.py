"""`doceval list`: batches by status, name, date, recurring evaluation and failures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.cli import cli
from doceval_pipeline_tests.conftest import Sample, sample_batch

# Of `doceval list --json`: a public interface.
KEYS = {
    "batch",
    "name",
    "partition",
    "status",
    "archived",
    "held_reason",
    "created",
    "completed",
    "documents",
    "cells",
    "recurring",
    "report",
}


def doceval(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def names(*arguments: str) -> list[str]:
    """The names of the listed batches, in their order."""
    ended = doceval("list", *arguments, "--json")
    assert ended.exit_code == 0, ended.output
    return [batch["name"] for batch in json.loads(ended.stdout)]


@pytest.fixture
def batches(databases: Databases, tmp_path: Path) -> dict[str, Sample]:
    """q-0 to q-5, created a day apart from 2026-01-01, in different states."""
    made = {f"q-{n}": sample_batch(databases, tmp_path, 2, 1, 1, f"q-{n}") for n in range(6)}
    for day, batch in enumerate(made.values(), 1):
        batch.doc_eval(
            "UPDATE batches SET created_at = make_timestamptz(2026, 1, :day, 0, 0, 0, 'UTC') WHERE id = :id",
            day=day,
        )
    made["q-1"].stage()
    made["q-2"].stage()
    made["q-3"].stage()
    made["q-1"].knowledge("UPDATE llm_responses SET status = 'F' WHERE batch_id = :id")
    set_columns(made["q-1"], status="'COMPLETED'")
    set_columns(made["q-2"], status="'PAUSED'", held_reason="'too dear'")
    archived = {"archived_at": "now()", "archive_file": "'a.zip'", "archive_sha256": "repeat('0', 64)"}
    set_columns(made["q-3"], status="'COMPLETED'", **archived)
    return made


def set_columns(batch: Sample, **columns: str) -> None:
    changes = ", ".join(f"{column} = {value}" for column, value in columns.items())
    batch.doc_eval(f"UPDATE batches SET {changes} WHERE id = :id")


def test_the_newest_come_first_and_the_others_are_counted(batches: dict[str, Sample]) -> None:
    assert names() == ["q-5", "q-4", "q-3", "q-2", "q-1", "q-0"]
    lines = doceval("list", "--limit", "2").stdout.splitlines()
    assert lines[0].split() == [
        "batch",
        "name",
        "status",
        "created",
        "(UTC)",
        "documents",
        "evaluations",
        "failed",
    ]
    assert [line.split()[1] for line in lines[1:3]] == ["q-5", "q-4"]
    assert lines[3:] == ["the newest 2 of 6 batches: --limit shows more"]
    assert doceval("list", "--limit", "6").stdout.count("\n") == 7


def test_each_row_has_the_counts_of_its_batch(batches: dict[str, Sample]) -> None:
    (row,) = [line for line in doceval("list").stdout.splitlines() if " q-1 " in line]
    assert row.split() == [batches["q-1"].key, "q-1", "COMPLETED", "2026-01-02", "00:00", "2", "2", "2"]
    listed: list[dict[str, Any]] = json.loads(doceval("list", "--json").stdout)
    assert all(set(batch) == KEYS for batch in listed)
    of_q1, archived = listed[4], listed[2]
    assert of_q1["created"] == "2026-01-02T00:00:00+00:00"
    assert (of_q1["cells"]["expected"], of_q1["cells"]["failed"]) == (2, 2)
    assert of_q1["documents"]["distinct"] == 2
    assert (archived["name"], archived["cells"], archived["documents"]) == ("q-3", None, None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--status", "completed"], "31"),
        (["--status", "Saved"], "540"),
        (["--status", "archived"], "3"),
        (["--status", "held"], "2"),
        (["--status", "open"], "2"),
        (["--status", "closed"], "1"),
        (["--status", "held", "--status", "ARCHIVED"], "32"),
        (["--status", "analyzing"], ""),
        (["--failed"], "1"),
        (["--failed", "--status", "saved"], ""),
        (["--name", "q-[12]"], "21"),
        (["--name", "batch-*"], "543210"),
        (["--name", "q-4"], "4"),
        (["--name", "Q-4"], ""),
        (["--since", "2026-01-05"], "54"),
        (["--until", "2026-01-02"], "0"),
        (["--since", "2026-01-02", "--until", "2026-01-03"], "1"),
        (["--since", "2026-01-02T00:00:01Z", "--until", "2026-01-03T02:00:01+02:00"], "2"),
        (["--since", "2026-01-02", "--name", "q-*", "--status", "saved", "--limit", "1"], "5"),
    ],
    ids=" ".join,
)
def test_filters_narrow_the_list_together(
    batches: dict[str, Sample], arguments: list[str], expected: str
) -> None:
    assert names(*arguments) == [f"q-{number}" for number in expected]


def test_batches_of_a_recurring_evaluation_are_found_by_its_name(batches: dict[str, Sample]) -> None:
    made = batches["q-2"]
    made.doc_eval(RECURRING)
    made.doc_eval(
        "INSERT INTO occurrences (recurring_id, due_at, outcome, batch_id) "
        "SELECT id, now(), 'MADE', :id FROM recurring_evaluations"
    )
    assert names("--recurring", "daily") == ["q-2"]
    assert names("--recurring", "daily", "--status", "saved") == []
    listed = json.loads(doceval("list", "--recurring", "daily", "--json").stdout)
    assert listed[0]["recurring"]["name"] == "daily"
    assert "recurring evaluation 'dayly' does not exist" in str(
        doceval("list", "--recurring", "dayly").exception
    )


RECURRING = """
    INSERT INTO recurring_evaluations (name, definition) VALUES ('daily', '{"name": "daily"}')
"""


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--status", "done"], "'done' is not one of"),
        (["--since", "yesterday"], "'yesterday' is not a date such as 2026-03-31 or 2026-03-31T14:00Z"),
        (["--since", "2026-01-01T10:00"], "has no time zone: append Z, or an offset such as +02:00"),
        (["--until", "2026-02-30"], "'2026-02-30' is not a date"),
        (["--until", ""], "'' is not a date"),
        (["--limit", "0"], "0 is not in the range"),
        (["--limit", "many"], "'many' is not a valid integer"),
    ],
    ids=" ".join,
)
def test_a_bad_filter_is_named_in_one_line(arguments: list[str], problem: str) -> None:
    ended = doceval("list", *arguments)
    assert ended.exit_code == 2
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert f"Invalid value for '{arguments[0]}'" in line
    assert problem in line


def test_extreme_dates_and_patterns_find_nothing_or_everything(batches: dict[str, Sample]) -> None:
    assert len(names("--since", "0001-01-01T00:00+14:00", "--until", "9999-12-31T23:59-14:00")) == 6
    assert names("--since", "9999-12-31") == []
    assert names("--name", "*a" * 90 + "b") == []
    assert names("--name", "\udcff*") == []
    assert names("--name", "") == []


def test_a_name_that_looks_like_a_pattern_finds_its_batch(batch_of: Callable[..., Sample]) -> None:
    batch_of(documents=1, name="x[1]")
    assert names("--name", "x[1]") == ["x[1]"]


@pytest.mark.usefixtures("databases")
def test_an_empty_list_says_how_to_create_a_batch_or_that_the_filter_matches_nothing() -> None:
    assert doceval("list").stdout.startswith("no batches yet: create one with doceval apply evaluation.yaml")
    assert doceval("list", "--status", "saved").stdout == "no batch matches: doceval list shows all\n"
    assert doceval("list", "--failed").stdout == "no batch matches: doceval list shows all\n"
    assert names() == []


def test_names_cannot_control_a_terminal(batch_of: Callable[..., Sample]) -> None:
    batch = batch_of(documents=1)
    batch.doc_eval("UPDATE batches SET batch_name = :name WHERE id = :id", name="\x1b[31m[red]\u202e")
    shown = doceval("list").stdout
    assert "\\x1b[31m[red]\\u202e" in shown
    assert "\x1b" not in shown
