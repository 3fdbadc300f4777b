"""`doceval simulate-processor`: replaces the external processor in the demo and in tests.

It calls no LLM and says so in everything it writes. Like any processor it uses only the contract of
KnowledgeDocuments, never the pipeline's own queue code.
"""

import base64
import binascii
import hashlib
import json
import threading
import uuid
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import click

from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.output import console
from doceval_pipeline.errors import DocEvalError
from doceval_pipeline.settings import Settings

NOTICE = "SIMULATED by doceval simulate-processor: no LLM was called."
SECONDS_BETWEEN_POLLS = 0.2
SECONDS_TO_END = 5
# In addition to twice the latency: time for everything else of an evaluation.
SECONDS_OF_LEASE = 60

# A processor may claim rows by a function with a lease or by plain UPDATEs; only UPDATEs can choose a batch.
CLAIM = "SELECT * FROM claim_responses(1, %(lease)s, %(worker)s)"
READ_DOCUMENT = "SELECT sha256, content FROM docs WHERE id = %(document_id)s"
COMPLETE = """
    SELECT * FROM complete_response(
        %(token)s, overall_score => %(score)s, response_text => %(text)s, response_json => %(json)s,
        input_tokens => %(input_tokens)s, output_tokens => %(output_tokens)s)
"""
FAIL = "SELECT * FROM fail_response(%(token)s, %(error)s)"
CLAIM_IN_BATCH = """
    UPDATE llm_responses SET status = 'P', task_id = %(task)s, started_processing_at = now()
    WHERE id = (SELECT id FROM llm_responses WHERE batch_id = %(batch)s AND status = 'QUEUED'
                ORDER BY id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING *, task_id AS token
"""
COMPLETE_IN_BATCH = """
    WITH done AS (
        UPDATE llm_responses SET status = 'S', overall_score = %(score)s, response_text = %(text)s,
            response_json = %(json)s, input_tokens = %(input_tokens)s, output_tokens = %(output_tokens)s
        WHERE task_id = %(token)s AND status = 'P' RETURNING id)
    SELECT EXISTS (SELECT FROM done) AS changed
"""
FAIL_IN_BATCH = """
    WITH done AS (
        UPDATE llm_responses SET status = 'F', error_message = %(error)s
        WHERE task_id = %(token)s AND status = 'P' RETURNING id)
    SELECT EXISTS (SELECT FROM done) AS changed
"""
ANY_OPEN = """
    SELECT EXISTS (SELECT 1 FROM llm_responses WHERE status = 'QUEUED')
        OR EXISTS (SELECT 1 FROM llm_responses WHERE lease_expires_at IS NOT NULL) AS open
"""


@dataclass(frozen=True)
class Behaviour:
    """How the simulation behaves: share of failures from 0 to 1, seconds per evaluation.

    With `batch`, the number of a batch, it takes rows of this batch only.
    """

    failure_rate: float
    latency: float
    until_empty: bool = False
    batch: int | None = None

    def claim(self) -> tuple[str, dict[str, Any]]:
        """The statement that takes a row, and its parameters."""
        worker = f"simulated-{uuid.uuid4()}"
        if self.batch is not None:
            return CLAIM_IN_BATCH, {"batch": self.batch, "task": worker}
        lease = timedelta(seconds=SECONDS_OF_LEASE + 2 * self.latency)
        return CLAIM, {"lease": lease, "worker": worker}

    @property
    def complete(self) -> str:
        """The statement that writes a result."""
        return COMPLETE if self.batch is None else COMPLETE_IN_BATCH

    @property
    def fail(self) -> str:
        """The statement that writes a failure."""
        return FAIL if self.batch is None else FAIL_IN_BATCH


class Simulation:
    """Threads that answer queued rows; a context manager that lets them finish their rows at its end."""

    def __init__(self, settings: Settings, behaviour: Behaviour, workers: int) -> None:
        self._stop = threading.Event()
        self._answered = [0] * workers
        self._failure: DocEvalError | None = None
        self._threads = [
            # Daemon threads end with this process, whatever ends it.
            threading.Thread(target=self._work, args=(settings, behaviour, number), daemon=True)
            for number in range(workers)
        ]

    def __enter__(self) -> "Simulation":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(SECONDS_TO_END)

    @property
    def answered(self) -> int:
        """Number of answered rows."""
        return sum(self._answered)

    def wait(self) -> None:
        """Wait until no work is left.

        Raises
        ------
        DatabaseError
            As `check`.
        """
        for thread in self._threads:
            thread.join()
        self.check()

    def check(self) -> None:
        """Check that the threads work.

        Raises
        ------
        DatabaseError
            The database refused a statement of one of them.
        """
        if self._failure is not None:
            raise self._failure

    def _work(self, settings: Settings, behaviour: Behaviour, number: int) -> None:
        from doceval_pipeline.batches.databases import database_errors

        try:
            with database_errors():
                self._answer_rows(settings, behaviour, number)
        except DocEvalError as error:
            self._failure = error
            self._stop.set()

    def _answer_rows(self, settings: Settings, behaviour: Behaviour, number: int) -> None:
        from psycopg2.extras import RealDictCursor

        from doceval_pipeline.batches.databases import KNOWLEDGE, plain_connection

        with closing(plain_connection(settings, KNOWLEDGE, "simulated-processor")) as connection:
            # Regardless of the database's default: with a stricter isolation, concurrent claims fail.
            connection.set_session(isolation_level="READ COMMITTED", autocommit=True)
            with connection.cursor(cursor_factory=RealDictCursor) as cursor:
                while not self._stop.is_set():
                    cursor.execute(*behaviour.claim())
                    row = cursor.fetchone()
                    if row is not None:
                        self._answered[number] += _answer(cursor, dict(row), behaviour, self._stop)
                    elif behaviour.until_empty and not _any_open(cursor):
                        return
                    else:
                        self._stop.wait(SECONDS_BETWEEN_POLLS)


@command(
    "simulate-processor",
    epilog=examples(
        "doceval simulate-processor", "doceval simulate-processor --failure-rate 0.1 --until-empty"
    ),
)
@click.option(
    "--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Number of parallel workers."
)
@click.option(
    "--failure-rate",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of evaluations that fail, from 0 to 1.",
)
@click.option(
    "--latency",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 3600),
    help="Seconds per evaluation.",
)
@click.option("--until-empty", is_flag=True, help="End when no row is queued or running.")
def simulate_processor(*, workers: int, failure_rate: float, latency: float, until_empty: bool) -> None:
    """Answer queued rows with made-up results.

    The results are marked as simulated. Calls no LLM.
    """
    from doceval_pipeline.batches.databases import open_databases

    settings = Settings.from_environment()
    open_databases(settings)
    console.print(f"[yellow]{NOTICE}[/] {workers} workers; Ctrl-C stops them")
    with Simulation(settings, Behaviour(failure_rate, latency, until_empty), workers) as simulation:
        try:
            simulation.wait()
        finally:
            console.print(f"{simulation.answered:,} evaluations answered")


def _answer(cursor: Any, row: dict[str, Any], behaviour: Behaviour, stop: threading.Event) -> bool:
    """Write a made-up result; False if the lease ended before."""
    cursor.execute(READ_DOCUMENT, row)
    document = cursor.fetchone()
    # 0.5 to 1.5 times the latency, always the same for the same evaluation.
    stop.wait(behaviour.latency * (0.5 + _chance(document["sha256"], row)))
    result = _result(document, row, behaviour.failure_rate)
    cursor.execute(
        behaviour.fail if "error" in result else behaviour.complete, {"token": row["token"], **result}
    )
    return bool(cursor.fetchone()["changed"])


def _result(document: dict[str, Any], row: dict[str, Any], failure_rate: float) -> dict[str, Any]:
    try:
        content = base64.b64decode(document["content"], validate=True)
    except binascii.Error as error:
        return {"error": f"{NOTICE} The stored base64 is invalid: {error}"}
    if hashlib.sha256(content).hexdigest() != document["sha256"]:
        return {"error": f"{NOTICE} The stored content does not match its sha256."}
    if _chance("failure" + document["sha256"], row) < failure_rate:
        return {"error": f"{NOTICE} The model is overloaded (made-up failure)."}
    score = round(100 * _chance("score" + document["sha256"], row), 1)
    text = f"{NOTICE} Score: {score} of 100, drawn from the digest of the document."
    return {
        "score": score,
        "text": text,
        "json": json.dumps({"simulated": True, "score": score}),
        "input_tokens": len(content) // 4 + 1,
        "output_tokens": len(text) // 4,
    }


def _chance(seed: str, row: dict[str, Any]) -> float:
    """A number from 0 to below 1, always the same for the same evaluation and attempt."""
    model = row["connection_details"]["model_name"]
    evaluation = f"{seed}/{row['prompt_id']}/{model}/{row['attempt']}"
    return int.from_bytes(hashlib.sha256(evaluation.encode()).digest()[:6]) / 2**48


def _any_open(cursor: Any) -> bool:
    cursor.execute(ANY_OPEN)
    return bool(cursor.fetchone()["open"])
