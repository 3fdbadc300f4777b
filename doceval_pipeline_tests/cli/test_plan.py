"""`doceval plan` with reused results, limits, and the name of a recurring evaluation."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.recurring import make_occurrence
from doceval_pipeline.cli import cli
from doceval_pipeline.errors import RecurringError, UnknownBatch
from doceval_pipeline_tests.batches.staging.test_plan_equals_bill import define, process, stage, write


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["plan", *words])


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    write(folder, {"a.txt": 1, "b.txt": 2})
    return folder


def test_a_plan_of_a_recurring_evaluation_shows_its_next_occurrence(
    databases: Databases, inbox: Path
) -> None:
    keys: dict[str, Any] = {"scope": "all", "max_documents": 2}
    made = make_occurrence(databases, define(databases, inbox, **keys), datetime(2099, 12, 1, 2, tzinfo=UTC))
    assert made.batch_id is not None
    stage(databases, made.batch_id)
    process(databases, made.batch_id, "finished")
    assert "no batch   nothing is new or changed" in run("inbox").output
    write(inbox, {"a.txt": 1, "b.txt": 2, "c.txt": 3})
    shown = run("inbox").output
    for line in (
        "inbox: the next occurrence, due ",
        "files      1 new, 0 changed, 2 unchanged, 0 gone",
        "reused     4 of 6 evaluations reused from 1 batch",
        "held       will be held: 3 documents exceed max_documents (2)",
    ):
        assert line in shown
    found = json.loads(run("inbox", "--json").output)
    assert (found["recurring"], found["cells"]["from_earlier"]) == ("inbox", 4)


def test_a_plan_shows_a_connection_whose_name_looks_like_markup(databases: Databases, inbox: Path) -> None:
    define(databases, inbox, max_cost=1)
    with databases.doc_eval.begin() as connection:
        connection.execute(
            text("UPDATE connections SET name = 'm [/red]', prices = NULL WHERE name = 'model'")
        )
        renamed = (
            """UPDATE recurring_evaluations SET definition = definition || '{"connections": ["m [/red]"]}'"""
        )
        connection.execute(text(renamed))
    assert "the cost of 'm [/red]' is unknown" in " ".join(run("inbox").output.split())


def test_a_definition_that_cannot_be_used_is_shown_with_its_problem(
    databases: Databases, inbox: Path
) -> None:
    define(databases, inbox)
    with databases.doc_eval.begin() as connection:
        connection.execute(text('UPDATE recurring_evaluations SET definition = \'{"schedule": "x"}\''))
    refused = run("inbox")
    assert isinstance(refused.exception, RecurringError)
    assert "cannot be used" in str(refused.exception)
    listed = CliRunner().invoke(cli, ["recurring", "list"]).output
    assert "unusable" in listed
    assert "active" not in listed
    for words in ([], ["inbox"]):
        shown = CliRunner().invoke(cli, ["recurring", "list", *words]).output
        assert "cannot be used: folders is missing" in " ".join(shown.split())
        assert "on arrival" not in shown
    (data,) = json.loads(CliRunner().invoke(cli, ["recurring", "list", "--json"]).output)
    assert (data["definition"], data["problem"][:18]) == (None, "folders is missing")


def test_a_plan_of_a_folder_that_is_away_gives_the_reason_alone(databases: Databases, inbox: Path) -> None:
    define(databases, inbox, timezone="Europe/Berlin")
    shutil.rmtree(inbox)
    shown = run("inbox").output
    assert "no batch   " in shown
    assert " 02:00 CE" in shown
    assert "0 new" not in shown


def test_a_name_comes_from_batches_first_and_options_are_for_batches(
    databases: Databases, inbox: Path
) -> None:
    define(databases, inbox)
    refused = run("inbox", "--failed")
    assert (refused.exit_code, "leave out --failed, --all and --rescan" in refused.output) == (2, True)
    assert isinstance(run("outbox").exception, UnknownBatch)


def test_a_definition_that_cannot_be_used_is_shown_as_such_and_cannot_be_planned(
    databases: Databases, inbox: Path
) -> None:
    define(databases, inbox)
    with databases.doc_eval.begin() as connection:
        connection.execute(
            text("""UPDATE recurring_evaluations SET definition = '{"schedule": "x", "connections": 1}'""")
        )
    assert "cannot be used: " in str(run("inbox").exception)
    (found,) = json.loads(CliRunner().invoke(cli, ["recurring", "list", "--json"]).output)
    assert (found["definition"], found["next_at"]) == (None, None)
    assert "missing" in found["problem"]
    assert "unusable" in CliRunner().invoke(cli, ["recurring", "list"]).output
    assert "its definition cannot be used" in CliRunner().invoke(cli, ["status"]).output
