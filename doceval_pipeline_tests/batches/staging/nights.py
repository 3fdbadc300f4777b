"""Occurrences of a recurring evaluation, from their files to a report, for tests of series."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.recurring import make_occurrence
from doceval_pipeline.batches.staging.steps import queue_evaluations, seal_batch, store_documents
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, locate
from doceval_pipeline.doc_eval.recurring.stored import find_recurring

FIRST = datetime(2026, 12, 1, 1, tzinfo=UTC)
# Every outcome, scores that a seed and the row decide, tokens that are not always known.
ANSWER = """
    UPDATE llm_responses SET
        status = CASE WHEN (document_id + prompt_id) % 5 = 0 THEN 'F' ELSE 'S' END,
        overall_score = CASE WHEN (document_id + prompt_id) % 7 = 0 THEN NULL
                             ELSE (hashint8(document_id * 31 + prompt_id) & 1023) / 10.3 END,
        input_tokens = CASE WHEN document_id % 3 = 0 THEN NULL ELSE 100 + document_id END,
        output_tokens = 10, time_taken_seconds = document_id / 7.0, completed_processing_at = now()
    WHERE batch_id = :id AND status = 'QUEUED'
"""


class Nights:
    """A recurring evaluation over a folder; each night is a day after the one before."""

    def __init__(self, databases: Databases, folder: Path, name: str = "inbox", **keys: Any) -> None:
        self.databases, self.folder, self.name, self.count = databases, folder, name, 0
        folder.mkdir(exist_ok=True)
        self.define(**keys)

    def define(self, prompts: tuple[str, ...] = ("clarity", "brevity"), **keys: Any) -> None:
        content = {
            "connections": [
                {
                    "name": "model",
                    "provider": "openai",
                    "model": "m",
                    "prices": {"input_per_million": 1000.0, "output_per_million": 2000.0, "currency": "EUR"},
                }
            ],
            "prompts": [{"name": name, "text": f"{name}?"} for name in prompts],
            "recurring": [
                {
                    "name": self.name,
                    "schedule": "0 1 * * *",
                    "folders": [str(self.folder)],
                    "connections": ["model"],
                    "prompts": list(prompts),
                    **keys,
                }
            ],
        }
        apply_evaluation(self.databases.doc_eval, locate(content, None, key_path, lambda folder: None))

    @property
    def record(self) -> Any:
        with self.databases.doc_eval.connect() as connection:
            return find_recurring(connection, self.name)

    def night(self, files: dict[str, str] | None = None, answer: str | None = ANSWER) -> int | None:
        """Write files, make the next occurrence, and stage, answer and report its batch."""
        for name, content in (files or {}).items():
            self.write(name, content)
        self.count += 1
        made = make_occurrence(self.databases, self.record, FIRST + timedelta(days=self.count - 1))
        if made.batch_id is None:
            return None
        seal_batch(self.databases, made.batch_id)
        store_documents(self.databases, made.batch_id, lambda *_: None)
        queue_evaluations(self.databases, made.batch_id)
        if answer is not None:
            self.knowledge(answer, id=made.batch_id)
            self.report(made.batch_id)
        return made.batch_id

    def write(self, name: str, content: str) -> None:
        """Write a file that was last changed on the night to come, long ago."""
        (self.folder / name).write_text(content)
        at = 1_000_000_000 + self.count * 86_400
        os.utime(self.folder / name, (at, at))

    def report(self, batch_id: int) -> None:
        poll(self.databases)
        write_report(self.databases, batch_id)

    def knowledge(self, statement: str, **values: Any) -> list[Any]:
        with self.databases.knowledge.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    def doc_eval(self, statement: str, **values: Any) -> list[Any]:
        with self.databases.doc_eval.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result) if result.returns_rows else []
