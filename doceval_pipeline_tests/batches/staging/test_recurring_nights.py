"""Nights of a recurring evaluation compared with a plain model: batches, their files, and new evaluations."""

import os
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging import steps, storing
from doceval_pipeline.batches.staging.recurring import make_occurrence
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate
from doceval_pipeline.doc_eval.recurring.occurrences import list_occurrences
from doceval_pipeline.doc_eval.recurring.stored import list_recurring
from doceval_pipeline.domain.recurring import Occurrence, OccurrenceOutcome
from doceval_pipeline_tests.batches.clock import clock_of
from doceval_pipeline_tests.faults.faulty_process import FaultyProcess

PROMPTS = ("clarity", "brevity")
# A cron of 02:30 in Berlin: skipped in spring, where it comes right after the change, and twice in autumn.
SUMMER, WINTER, SKIPPED = "00:30", "01:30", "01:00"
CHANGES = (datetime(2026, 10, 25, tzinfo=UTC), datetime(2027, 3, 28, tzinfo=UTC))
# More points than an act has: some kills come too late.
MOST_POINTS = 60
ANSWER = """
    UPDATE llm_responses SET status = 'S', overall_score = 80, response_text = 'Clear.'
    WHERE batch_id = :id AND status = 'QUEUED'
"""
ASKED = """
    SELECT d.sha256, r.prompt_id, r.connection_id FROM llm_responses r JOIN docs d ON d.id = r.document_id
    WHERE r.reused_from IS NULL
"""
HELD = """
    SELECT DISTINCT d.sha256, r.reused_from IS NOT NULL
    FROM llm_responses r JOIN docs d ON d.id = r.document_id
    WHERE r.batch_id = :id
"""


def due_on(day: datetime) -> datetime:
    """When 02:30 in Berlin is on a day, as people would say it."""
    at = SKIPPED if day == CHANGES[1] else SUMMER if day <= CHANGES[0] or day > CHANGES[1] else WINTER
    return datetime.fromisoformat(f"{day:%Y-%m-%d}T{at}+00:00")


@dataclass
class Folder:
    """Files that people write, touch, rename, copy and delete; `here` has content and time by name."""

    path: Path
    draw: random.Random
    here: dict[str, tuple[str, int]] = field(default_factory=dict)

    def work(self, at: int) -> None:
        """A day's work."""
        for _ in range(self.draw.randrange(5)):
            name, other = (f"{self.draw.randrange(12)}.txt" for _ in range(2))
            action = self.draw.choice(("write", "write", "delete", "rename", "copy", "touch", "backwards"))
            if action == "write":
                self.write(name, f"content {self.draw.randrange(20)}", at)
            elif name not in self.here:
                continue
            elif action == "copy":
                self.write(other, self.here[name][0], at)
            elif action in ("touch", "backwards"):
                self.write(name, self.here[name][0], at if action == "touch" else at - 10**8)
            elif action == "rename":
                (self.path / name).rename(self.path / other)
                self.here[other] = self.here.pop(name)
            else:
                (self.path / name).unlink()
                del self.here[name]

    def write(self, name: str, content: str, at: int) -> None:
        self.here[name] = content, at
        (self.path / name).write_text(content)
        os.utime(self.path / name, (at, at))


def tick(databases: Databases) -> None:
    """Act as the sensor and its run."""
    with databases.doc_eval.connect() as connection:
        due = [(record, record.due_at) for record in list_recurring(connection)]
    for record, due_at in due:
        if due_at is not None:
            make_occurrence(databases, record, due_at)


def stage(databases: Databases, batch_id: int) -> None:
    steps.seal_batch(databases, batch_id)
    steps.assign_documents(databases, batch_id)
    steps.store_documents(databases, batch_id, lambda *_: None)
    steps.queue_evaluations(databases, batch_id)


def ask(databases: Databases, statement: str, **parameters: Any) -> list[Any]:
    with databases.knowledge.begin() as connection:
        result = connection.execute(text(statement), parameters)
        return list(result) if result.returns_rows else []


def assigned(databases: Databases, batch_id: int) -> set[str]:
    with databases.doc_eval.connect() as connection:
        return set(
            connection.scalars(
                text("""
                    SELECT d.filepath FROM batch_documents b JOIN documents d ON d.id = b.document_id
                    WHERE b.batch_id = :id AND b.state = 'STAGED'"""),
                {"id": batch_id},
            )
        )


def define(databases: Databases, folder: Path, **keys: Any) -> None:
    content = {
        "connections": [{"name": "model", "provider": "openai", "model": "m"}],
        "prompts": [{"name": name, "text": f"{name}?"} for name in PROMPTS],
        "recurring": [
            {
                "name": "inbox",
                "schedule": "30 2 * * *",
                "timezone": "Europe/Berlin",
                "folders": [str(folder)],
                "connections": ["model"],
                "prompts": list(PROMPTS),
                **keys,
            }
        ],
    }
    apply_evaluation(databases.doc_eval, locate(content, None, key_path))


def watch_from(databases: Databases, moment: datetime) -> None:
    with databases.doc_eval.begin() as connection:
        connection.execute(
            text("UPDATE recurring_evaluations SET watched_from = CAST(:at AS timestamptz)"), {"at": moment}
        )


def recorded(databases: Databases) -> list[Occurrence]:
    with databases.doc_eval.connect() as connection:
        (record,) = list_recurring(connection)
        return list_occurrences(connection, record.id, 1000)


@pytest.mark.parametrize(
    ("nights", "kills"), [(4, 0.3), pytest.param(30, 0.6, marks=pytest.mark.slow)], ids=["short", "full"]
)
def test_nights_across_both_clock_changes_and_kills_match_a_plain_model(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nights: int, kills: float
) -> None:
    monkeypatch.setattr(storing, "PORTION_FILES", 3)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    define(databases, inbox)
    folder, chance = Folder(inbox, random.Random(20261025)), random.Random(20270328)
    known: dict[str, tuple[str, int]] = {}
    asked: set[str] = set()
    expected: list[tuple[datetime, bool]] = []
    killed = 0
    with clock_of(databases, CHANGES[0]) as clock:
        for change in CHANGES:
            first = change - timedelta(days=nights // 2)
            # It is defined anew before the other change, as after a pause.
            watch_from(databases, first)
            for night in range(nights):
                day = first + timedelta(days=night)
                folder.work(int(day.timestamp()))
                due_at = due_on(day)
                # Twice in the hour that comes twice, late, and again.
                for minutes in (-1, 1, 59, 61, 900):
                    clock.moment = due_at + timedelta(minutes=minutes)
                    if chance.random() < kills:
                        at = chance.randint(1, MOST_POINTS)
                        killed += FaultyProcess(databases, lambda: tick(databases), at=at).end().killed
                    tick(databases)
                    found = recorded(databases)
                    assert len(found) == len(expected) + (minutes > 0)
                new = {name for name, file in folder.here.items() if known.get(name) != file}
                expected.append((due_at, bool(new)))
                made = found[0]
                assert (made.due_at, made.outcome is OccurrenceOutcome.MADE) == expected[-1]
                if made.batch_id is None:
                    continue
                known = dict(folder.here)
                if chance.random() < kills:
                    number, at = made.batch_id, chance.randint(1, 2 * MOST_POINTS)
                    killed += (
                        FaultyProcess(databases, lambda n=number: stage(databases, n), at=at).end().killed
                    )
                stage(databases, made.batch_id)
                assert assigned(databases, made.batch_id) == new
                contents = {folder.here[name][0] for name in new}
                held = ask(databases, HELD, id=made.batch_id)
                assert (len(held), sum(reused for _, reused in held)) == (
                    len(contents),
                    len(contents & asked),
                )
                asked |= contents
                ask(databases, ANSWER, id=made.batch_id)
    print(f"{len(expected)} nights, {sum(made for _, made in expected)} batches, {killed} kills")
    rows = ask(databases, ASKED)
    assert len(rows) == len(set(rows)) == len(asked) * len(PROMPTS)
    with databases.doc_eval.connect() as connection:
        batches = list(connection.scalars(text("SELECT batch_name FROM batches ORDER BY id")))
    assert batches == [f"inbox {due:%Y-%m-%d}" for due, made in expected if made]
