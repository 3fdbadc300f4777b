"""Occurrences of recurring evaluations: what each batch is made of, and that there is one for each time."""

import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.recurring import make_occurrence
from doceval_pipeline.doc_eval.apply import apply_evaluation
from doceval_pipeline.doc_eval.evaluation_file import key_path, locate
from doceval_pipeline.doc_eval.recurring import Outcome, RecurringRecord, find_recurring, occurrences

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
