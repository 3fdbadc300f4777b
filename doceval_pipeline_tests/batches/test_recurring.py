"""Occurrences of recurring evaluations: what each batch is made of, and that there is one for each time."""

import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from doceval_pipeline.batches.archiving import archive
from doceval_pipeline.batches.completion import look
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.recurring import make_occurrence
from doceval_pipeline.batches.reprocessing import Mode, reprocess
from doceval_pipeline.doc_eval.apply import apply_evaluation
from doceval_pipeline.doc_eval.evaluation_file import key_path, locate
from doceval_pipeline.doc_eval.recurring import (
    Outcome,
    RecurringRecord,
    delete_recurring,
    find_recurring,
    forget_old_occurrences,
    occurrences,
)
from doceval_pipeline_tests.batches.archives import quiet
from doceval_pipeline_tests.conftest import Sample

NIGHT = datetime(2026, 12, 1, 1, tzinfo=UTC)


def define(databases: Databases, folder: Path, **keys: Any) -> RecurringRecord:
    content = {
        "connections": [{"name": "model", "provider": "simulation", "model": "m"}],
        "prompts": [{"name": "clarity", "text": "Is it clear?"}],
        "recurring": [
            {
                "name": "inbox",
                "schedule": "0 2 * * *",
                "timezone": "Europe/Berlin",
                "folders": [str(folder)],
                "connections": ["model"],
                "prompts": ["clarity"],
                **keys,
            }
        ],
    }
    apply_evaluation(databases.doc_eval, locate(content, None, key_path))
    return find(databases)


def find(databases: Databases) -> RecurringRecord:
    with databases.doc_eval.connect() as connection:
        return find_recurring(connection, "inbox")


def write(path: Path, content: str, at: int) -> None:
    path.write_text(content)
    os.utime(path, (at, at))


def assigned(databases: Databases, batch_id: int | None) -> set[str]:
    with databases.doc_eval.connect() as connection:
        return set(
            connection.scalars(
                text("""
                    SELECT d.filepath FROM batch_documents b JOIN documents d ON d.id = b.document_id
                    WHERE b.batch_id = :id AND b.state = 'ASSIGNED'"""),
                {"id": batch_id},
            )
        )


def test_each_night_has_a_batch_of_what_is_new_or_changed(databases: Databases, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    record = define(databases, inbox)
    draw = random.Random(20261201)
    known: dict[str, tuple[str, int]] = {}
    here: dict[str, tuple[str, int]] = {}
    for night in range(60):
        at = 1_700_000_000 + night * 86_400
        for _ in range(draw.randrange(4)):
            name = f"{draw.randrange(12)}.txt"
            action = draw.choice(("write", "write", "delete", "rename"))
            if action == "write":
                here[name] = (f"night {draw.randrange(5)}", at)
                write(inbox / name, *here[name])
            elif name in here and action == "delete":
                del here[name]
                (inbox / name).unlink()
            elif name in here:
                other = f"{draw.randrange(12)}.txt"
                here[other] = here.pop(name)
                (inbox / name).rename(inbox / other)
        made = make_occurrence(databases, record, NIGHT + timedelta(days=night))
        expected = {name for name, file in here.items() if known.get(name) != file}
        assert made.outcome is (Outcome.MADE if expected else Outcome.SKIPPED)
        assert assigned(databases, made.batch_id) == expected
        if expected:
            known = dict(here)
    with databases.doc_eval.connect() as connection:
        assert len(occurrences(connection, record.id)) == 60
        names = list(connection.scalars(text("SELECT batch_name FROM batches ORDER BY id")))
    assert names[0] == "inbox 2026-12-01"
    assert len(set(names)) == len(names)


def test_a_file_that_an_archived_occurrence_could_not_read_is_new_and_the_others_are_known(
    databases: Databases, tmp_path: Path
) -> None:
    record = define(databases, tmp_path)
    for name in "abc":
        write(tmp_path / name, name, 1_700_000_000)
    first = Sample(databases, make_occurrence(databases, record, NIGHT).batch_id or 0, "", tmp_path)
    (tmp_path / "b").unlink()
    first.stage()
    write(tmp_path / "b", "b", 1_700_000_000)
    first.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 50")
    look(databases)
    archive(databases, first.id, quiet, quiet)
    made = make_occurrence(databases, record, NIGHT + timedelta(days=1))
    assert (assigned(databases, made.batch_id), made.files.unchanged) == ({"b"}, 2)
    # What it is made of stays, whatever becomes of the definition.
    second = Sample(databases, made.batch_id or 0, "", tmp_path)
    second.stage()
    with databases.doc_eval.begin() as connection:
        delete_recurring(connection, record.id)
    reprocess(databases, second.id, Mode.failed, quiet, new_look=True)
    assert second.doc_eval("SELECT count(*) FROM batch_documents") == [(1,)]


def test_a_night_writes_only_files_that_are_new_and_old_nights_without_a_batch_are_forgotten(
    databases: Databases, tmp_path: Path
) -> None:
    record = define(databases, tmp_path, scope="all", skip_if_nothing_new=False)
    for number in range(5):
        write(tmp_path / f"{number}", "x", 1_700_000_000)
    batch = Sample(databases, 0, "", tmp_path)
    made = [make_occurrence(databases, record, NIGHT + timedelta(days=night)) for night in range(2)]
    written = "SELECT ctid::text, xmin::text FROM recurring_files ORDER BY document_id"
    before = batch.doc_eval(written)
    write(tmp_path / "4", "xx", 1_700_000_000)
    made.append(make_occurrence(databases, record, NIGHT + timedelta(days=2)))
    after = batch.doc_eval(written)
    assert before[:4] == after[:4]
    assert before[4] != after[4]
    assert [(night.outcome, night.files.changed) for night in made] == [
        (Outcome.MADE, 0),
        (Outcome.MADE, 0),
        (Outcome.MADE, 1),
    ]
    batch.doc_eval(
        "INSERT INTO occurrences (recurring_id, due_at, outcome, reason, recorded_at) "
        "SELECT r.id, '2026-12-02'::timestamptz + night * interval '1 day', 'SKIPPED', 'nothing', "
        "now() - interval '40 days' FROM recurring_evaluations r, generate_series(10, 19) AS night"
    )
    with databases.doc_eval.begin() as connection:
        assert [forget_old_occurrences(connection, 30) for _ in range(2)] == [9, 0]
    assert find(databases).newest_due_at == datetime(2026, 12, 21, tzinfo=UTC)
