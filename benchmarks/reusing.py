"""Case 15: reusing the results of an earlier batch, compared with queueing as many rows.

Both call `queue.enqueue` in a separate transaction. An earlier batch has a result for every evaluation: one
side reuses it, the other queues the evaluation again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.errors import WrongResult
from benchmarks.figures import Figure, Measured, absolute, cpu_seconds, ratio, seconds
from benchmarks.harness import Experiment, Side
from benchmarks.installation import Installation, evaluation
from benchmarks.queueing import choice
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.staging.steps import seal_batch
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.files import DOCUMENTS
from doceval_pipeline.domain.files import document_ranges
from doceval_pipeline.knowledge import queue
from doceval_pipeline.portions import in_portions

REUSED, QUEUED = "reused", "queued"
COLUMNS = 2
_NAME = "{part:04}/{number:06}.txt"
# Every answer is a success, because failures are not reused.
_ANSWERS = """
    INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, status, connection_details,
                               task_id, started_processing_at, completed_processing_at, response_text,
                               overall_score, input_tokens, output_tokens, time_taken_seconds)
    SELECT 1, d.id, p, c, 'S', CAST(:details AS jsonb), 'task-' || d.id, now(), now(),
           repeat('An answer. ', 30), (d.id * 7 + p * 13 + c) % 101, 5000, 300, 2.5
    FROM docs AS d
    CROSS JOIN generate_series(1, CAST(:columns AS int)) AS p
    CROSS JOIN generate_series(1, CAST(:columns AS int)) AS c
    ORDER BY d.id, p, c
"""
_DOCUMENTS = """
    INSERT INTO docs (document_id, sha256, content_type, doc_type, file_size, content)
    SELECT 'sha256:' || sha256, sha256, 'text/plain', 'txt', 5, 'aGVsbG8='
    FROM (SELECT encode(sha256(CAST(CAST(n AS text) AS bytea)), 'hex') AS sha256
          FROM generate_series(1, CAST(:count AS int)) AS n) AS made
"""
_REMOVE = "DELETE FROM llm_responses WHERE batch_id = 2"


def enqueue(databases: Databases, batch: int, count: int, *, reuse: bool) -> Timed:
    """All rows of a batch, in one transaction."""
    _, prompts, connections = choice(databases, batch)
    documents = list(
        document_ranges(
            (part, [_NAME.format(part=number // 100, number=number) for number in part])
            for part in in_portions(range(1, count + 1), DOCUMENTS)
        )
    )

    def timed() -> Figures:
        with databases.knowledge.begin() as knowledge:
            added = queue.enqueue(knowledge, batch, documents, prompts, connections, 10, reuse=reuse)
        return {REUSED: added.reused, QUEUED: added.queued}

    return timed


def reusing(*, quick: bool) -> Case:
    """Case 15."""
    count = 50 if quick else 250_000
    rows = count * COLUMNS * COLUMNS

    def prepare(installation: Installation) -> None:
        installation.empty()
        installation.knowledge(_DOCUMENTS, count=count)
        for number in (1, 2):
            located = evaluation([str(installation.folder)], COLUMNS, COLUMNS, name=f"batch {number}")
            apply_evaluation(installation.databases.doc_eval, located)
            seal_batch(installation.databases, number)
        installation.make_rows(_ANSWERS, range(1, 2), details=material.DETAILS, columns=COLUMNS)
        installation.vacuum("docs")

    def before(*, reuse: bool) -> Callable[[Installation], dict[str, Any]]:
        def settle(installation: Installation) -> dict[str, Any]:
            installation.make_rows(_REMOVE, range(2, 3))
            installation.vacuum("llm_responses")
            installation.checkpoint()
            return {"batch": 2, "count": count, "reuse": reuse}

        return settle

    sides = [
        Side(REUSED, enqueue, before(reuse=True), partial(_check, REUSED, rows)),
        Side(QUEUED, enqueue, before(reuse=False), partial(_check, QUEUED, rows)),
    ]

    def judge(measured: Measured) -> list[Figure]:
        found = measured["rows"]
        return [
            ratio("time", found, REUSED, QUEUED, 1.30, seconds),
            ratio("CPU", found, REUSED, QUEUED, None, cpu_seconds),
            absolute("memory of the server", "MiB", found, REUSED, lambda m: m.server_bytes / 2**20),
        ]

    experiment = Experiment("rows", prepare, sides, 1 if quick else 3)
    return Case("15", f"reuse {rows:,} results", f"queueing {rows:,} rows", [experiment], judge)


def _check(kind: str, rows: int, _: Installation, figures: Figures) -> None:
    if figures[kind] != rows:
        raise WrongResult(f"expected {rows} rows to be {kind}, found {figures}")
