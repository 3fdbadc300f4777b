"""Case 10: the report of a completed batch, compared with reading its rows once.

The yardstick streams the same columns of the same rows as plain tuples and keeps none of them.
"""

from contextlib import closing
from functools import partial
from importlib import import_module
from typing import Any

import psycopg2

from benchmarks import material
from benchmarks.case import Case
from benchmarks.child import Figures, Timed
from benchmarks.errors import WrongResult
from benchmarks.figures import Figure, Measured, absolute, cpu_seconds, ratio
from benchmarks.harness import Experiment, Side
from benchmarks.installation import Installation
from benchmarks.staging import OURS, client_mib
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring import completion
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging import steps

READING = "reading the rows once"
MOST_MIB = 120
_COLUMNS = """
    SELECT document_id, connection_id, prompt_id, attempt, status, overall_score, error_message,
           left(response_text, 2000), input_tokens, output_tokens, time_taken_seconds, response_time_ms,
           task_id
    FROM llm_responses WHERE batch_id = %s
"""


def report(databases: Databases, batch: int) -> Timed:
    """Write the report, as the asset `completion_report` does."""
    # Imported before they are used, because imports are not timed.
    for module in ("doceval_pipeline.batches.results.report_input", "scipy.stats"):
        import_module(module)

    def timed() -> Figures:
        written = write_report(databases, batch)
        return {
            "rows": written.figures.cells.rows,
            "scores": written.figures.sums.scores and written.figures.sums.scores.n,
        }

    return timed


def read(databases: Databases, batch: int) -> Timed:
    """Read the rows, a few thousand at a time."""
    url = databases.knowledge.url.set(drivername="postgresql").render_as_string(hide_password=False)

    def timed() -> Figures:
        rows = scores = 0
        with closing(psycopg2.connect(url)) as connection, connection.cursor(name="rows") as cursor:
            cursor.itersize = 5_000
            cursor.execute(_COLUMNS, (batch,))
            for row in cursor:
                rows += 1
                scores += row[5] is not None
        return {"rows": rows, "scores": scores}

    return timed


def reporting(*, quick: bool) -> Case:
    """Case 10."""
    # A small report is mostly its page, which has as many cells as that of a large one.
    sizes = (8, 20) if quick else (100, 10_000)
    goals = (5, 1.5)
    columns = 2 if quick else 10
    experiments = [_experiment(documents, columns, quick=quick) for documents in sizes]

    def judge(measured: Measured) -> list[Figure]:
        return [
            figure
            for (name, found), goal in zip(measured.items(), goals, strict=True)
            for figure in (
                ratio(f"{name}, time", found, OURS, READING, goal),
                ratio(f"{name}, CPU", found, OURS, READING, value=cpu_seconds),
                absolute(f"{name}, memory", "MiB", found, OURS, client_mib, MOST_MIB),
            )
        ]

    work = f"report of {sizes[0] * columns**2:,} and of {sizes[1] * columns**2:,} cells"
    return Case("10", work, READING, experiments, judge)


def _experiment(documents: int, columns: int, *, quick: bool) -> Experiment:
    rows = documents * columns * columns
    batches: list[int] = []

    def prepare(installation: Installation) -> None:
        installation.empty()
        folder = material.documents(installation.folder / f"tiny-{documents}", documents, 300)
        number = material.stored_batch(installation, folder, columns, columns)
        material.finished_rows(installation, range(number, number + 1), columns, columns)
        steps.queue_evaluations(installation.databases, number)
        completion.poll(installation.databases)
        installation.checkpoint()
        batches.append(number)

    def before(_: Installation) -> dict[str, Any]:
        return {"batch": batches[-1]}

    check = partial(_check, rows)
    sides = [Side(OURS, report, before, check), Side(READING, read, before, check)]
    return Experiment(f"{rows:,} cells", prepare, sides, 1 if quick else 7)


def _check(rows: int, installation: Installation, figures: Figures) -> None:
    ((scores,),) = installation.knowledge("SELECT count(overall_score) FROM llm_responses")
    if (figures["rows"], figures["scores"]) != (rows, scores):
        raise WrongResult(f"expected {rows} rows and {scores} scores, found {figures}")
