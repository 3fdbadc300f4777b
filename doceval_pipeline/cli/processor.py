"""`doceval simulate-processor`: stands in for the external processor in the demo and in tests.

It calls no LLM, and says so in everything it writes. It talks to KnowledgeDocuments by the functions
of the contract alone, as any processor may: nothing of the pipeline's own queue code is used.
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
from psycopg2.extras import RealDictCursor

from doceval_pipeline.batches.databases import KNOWLEDGE, open_databases, plain_connection
from doceval_pipeline.cli.output import console
from doceval_pipeline.settings import Settings

NOTICE = "SIMULATED by doceval simulate-processor: no LLM was called."
SECONDS_BETWEEN_LOOKS = 0.2
# Beyond the latency: what everything else of a cell may take.
SECONDS_OF_LEASE = 60

CLAIM = "SELECT * FROM claim_responses(1, %(lease)s, %(worker)s)"
READ_DOCUMENT = "SELECT sha256, content FROM docs WHERE id = %(document_id)s"
COMPLETE = """
    SELECT * FROM complete_response(
        %(token)s, overall_score => %(score)s, response_text => %(text)s, response_json => %(json)s,
        input_tokens => %(input_tokens)s, output_tokens => %(output_tokens)s)
"""
FAIL = "SELECT * FROM fail_response(%(token)s, %(error)s)"
ANY_OPEN = """
    SELECT EXISTS (SELECT 1 FROM llm_responses WHERE status = 'QUEUED')
        OR EXISTS (SELECT 1 FROM llm_responses WHERE lease_expires_at IS NOT NULL) AS open
"""


@dataclass(frozen=True)
class Behaviour:
    """How the simulation behaves: share of failures from 0 to 1, seconds for each cell."""

    failure_rate: float
    latency: float
    until_empty: bool


@click.command("simulate-processor")
@click.option(
    "--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Working side by side."
)
@click.option(
    "--failure-rate",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of cells that fail.",
)
@click.option(
    "--latency", default=0.1, show_default=True, type=click.FloatRange(0, 3600), help="Seconds for each cell."
)
@click.option("--until-empty", is_flag=True, help="End when nothing is queued or running.")
def simulate_processor(workers: int, failure_rate: float, latency: float, until_empty: bool) -> None:
    """Answer queued rows with made-up results, clearly marked as simulated. Calls no LLM."""
    settings = Settings.from_environment()
    open_databases(settings)
    behaviour = Behaviour(failure_rate, latency, until_empty)
    console.print(f"[yellow]{NOTICE}[/] {workers} workers; Ctrl-C ends it")
    stop = threading.Event()
    answered = [0] * workers
    threads = [
        threading.Thread(target=_work, args=(settings, behaviour, stop, answered, number), daemon=True)
        for number in range(workers)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        console.print(f"{sum(answered):,} cells answered")


COMMANDS = (simulate_processor,)


def _work(
    settings: Settings, behaviour: Behaviour, stop: threading.Event, answered: list[int], number: int
) -> None:
    claim = {
        "lease": timedelta(seconds=SECONDS_OF_LEASE + 2 * behaviour.latency),
        "worker": f"simulated-{uuid.uuid4()}",
    }
    with closing(plain_connection(settings, KNOWLEDGE, "simulated-processor")) as connection:
        # Whatever the database defaults to: claims lose against each other under a stricter isolation.
        connection.set_session(isolation_level="READ COMMITTED", autocommit=True)
        with connection.cursor(cursor_factory=RealDictCursor) as cursor:
            while not stop.is_set():
                cursor.execute(CLAIM, claim)
                row = cursor.fetchone()
                if row is not None:
                    answered[number] += _answer(cursor, dict(row), behaviour, stop)
                elif behaviour.until_empty and not _any_open(cursor):
                    return
                else:
                    stop.wait(SECONDS_BETWEEN_LOOKS)


def _answer(cursor: Any, row: dict[str, Any], behaviour: Behaviour, stop: threading.Event) -> bool:
    """Write a made-up result; False where the lease ended before it was written."""
    cursor.execute(READ_DOCUMENT, row)
    document = cursor.fetchone()
    # Between half and one and a half of the latency, the same for the same cell every time.
    stop.wait(behaviour.latency * (0.5 + _chance(document["sha256"], row)))
    result = _result(document, row, behaviour.failure_rate)
    cursor.execute(FAIL if "error" in result else COMPLETE, {"token": row["token"], **result})
    return bool(cursor.fetchone()["changed"])


def _result(document: dict[str, Any], row: dict[str, Any], failure_rate: float) -> dict[str, Any]:
    try:
        content = base64.b64decode(document["content"], validate=True)
    except binascii.Error as error:
        return {"error": f"{NOTICE} The stored base64 is invalid: {error}"}
    if hashlib.sha256(content).hexdigest() != document["sha256"]:
        return {"error": f"{NOTICE} The stored content is not what its sha256 says."}
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
    """A number from 0 to below 1 that is the same for the same cell and attempt."""
    model = row["connection_details"]["model_name"]
    cell = f"{seed}/{row['prompt_id']}/{model}/{row['attempt']}"
    return int.from_bytes(hashlib.sha256(cell.encode()).digest()[:6]) / 2**48


def _any_open(cursor: Any) -> bool:
    cursor.execute(ANY_OPEN)
    return bool(cursor.fetchone()["open"])
