"""Case 5: the step `queue_rows`, compared with a bare INSERT of the same rows into the same table.

The step also locks the batch, sets foreign rows aside, checks which rows exist, keeps their order, and counts
them after its commit.
"""

import json
from functools import partial
from typing import Any

from sqlalchemy import text

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.figures import Figure, Measured, ratio, seconds, server_cpu, wal_bytes
from benchmarks.harness import Experiment, Side
from benchmarks.installation import Installation
from benchmarks.staging import OURS, require_rows
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging import steps
from doceval_pipeline.doc_eval import files
from doceval_pipeline.doc_eval.snapshot import read_snapshot
from doceval_pipeline.domain.files import DocumentRange
from doceval_pipeline.knowledge import queue

BARE, STATEMENT = "bare INSERT … SELECT", "our statement alone"
_INSERT = text("""
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, connection_details,
                               file_name, queue_position)
    SELECT :batch_id, d.id, p.id, c.id, c.details, d.file_name, row_number() OVER ()
    FROM unnest(CAST(:documents AS bigint[]), CAST(:file_names AS text[])) AS d(id, file_name)
    CROSS JOIN unnest(CAST(:prompts AS int[])) AS p(id)
    CROSS JOIN unnest(CAST(:connections AS int[]), CAST(:details AS jsonb[])) AS c(id, details)
""")


def queue_evaluations(databases: Databases, batch: int) -> Timed:
    """The whole step."""
    return lambda: {"rows": steps.queue_evaluations(databases, batch).added}


def enqueue(databases: Databases, batch: int) -> Timed:
    """Only the statement of the step."""
    documents, prompts, connections = choice(databases, batch)

    def timed() -> Figures:
        with databases.knowledge.begin() as knowledge:
            added = queue.enqueue(knowledge, batch, documents, prompts, connections, priority=10)
            return {"rows": added.queued}

    return timed


def insert(databases: Databases, batch: int) -> Timed:
    """The bare statement."""
    documents, prompts, connections = choice(databases, batch)
    rows = {
        "batch_id": batch,
        "documents": [number for part in documents for number in part.ids],
        "file_names": [name for part in documents for name in part.names],
        "prompts": [prompt["id"] for prompt in prompts],
        "connections": [connection["id"] for connection in connections],
        "details": [json.dumps({key: c[key] for key in queue.CONNECTION_DETAILS}) for c in connections],
    }

    def timed() -> Figures:
        with databases.knowledge.begin() as knowledge:
            return {"rows": knowledge.execute(_INSERT, rows).rowcount}

    return timed


def queueing(*, quick: bool) -> Case:
    """Case 5."""
    documents, columns = (20, 2) if quick else (10_000, 10)
    rows = documents * columns * columns
    batches: list[int] = []

    def prepare(installation: Installation) -> None:
        installation.empty()
        folder = material.documents(installation.folder / f"tiny-{documents}", documents, 300)
        batches.append(material.stored_batch(installation, folder, columns, columns))

    def before(installation: Installation) -> dict[str, Any]:
        installation.empty_queue()
        return {"batch": batches[-1]}

    check = partial(_check, rows)
    sides = [
        Side(OURS, queue_evaluations, before, check),
        Side(STATEMENT, enqueue, before, check),
        Side(BARE, insert, before, check),
    ]

    def judge(measured: Measured) -> list[Figure]:
        found = measured["rows"]
        return [
            ratio("time", found, OURS, BARE, 1.10, seconds),
            ratio("time of our statement alone", found, STATEMENT, BARE),
            ratio("server CPU", found, OURS, BARE, None, server_cpu),
            ratio("WAL", found, OURS, BARE, None, wal_bytes),
        ]

    experiment = Experiment("rows", prepare, sides, 1 if quick else 5)
    return Case("5", f"queue {rows:,} rows", BARE, [experiment], judge)


def _check(rows: int, installation: Installation, figures: Figures) -> None:
    require_rows(installation, rows)


def choice(databases: Databases, batch: int) -> tuple[list[DocumentRange], list[Any], list[Any]]:
    """The documents, prompts and connections of a sealed batch."""
    with databases.doc_eval.connect() as connection:
        sealed = read_snapshot(connection, batch)
        documents = list(files.named_ranges(connection, batch))
    config = sealed.config if sealed else {"prompts": [], "connections": []}
    return documents, config["prompts"], config["connections"]
