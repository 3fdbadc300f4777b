"""A database of its own for one run: made, filled, read, and dropped again with its login role.

The role may do what processors may do, and no more: first what both kinds of them may, and once one has taken
a row, what its kind may.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pybase64
from sqlalchemy import Engine, create_engine, text

from doceval_pipeline.conformance.cases import Case
from doceval_pipeline.embedded.engines import guard
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.knowledge import queue
from doceval_pipeline.knowledge.bulk_load import NewDocument, copy_documents, known_contents
from doceval_pipeline.migrations.roles import grant_roles
from doceval_pipeline.migrations.upgrade import Schema, upgrade

KEY_VARIABLE = "CONFORMANCE_API_KEY"
WORKER, PLAIN_WORKER = "doceval_worker", "doceval_plain_worker"

_ROWS = text("""
    SELECT prompt_id AS number, status, overall_score, response_text, error_message, input_tokens,
           output_tokens, deliveries, lease_expires_at,
           extract(epoch FROM lease_expires_at - started_processing_at)::double precision AS lease_seconds
    FROM llm_responses WHERE batch_id = :batch_id ORDER BY prompt_id
""")
# The owner lets time pass; nobody else can.
_END_LEASES = text("""
    UPDATE llm_responses SET lease_expires_at = clock_timestamp() - interval '1 second'
    WHERE lease_expires_at IS NOT NULL
""")
_TAKE_OVER = text("""
    SELECT changed FROM claim_responses(1, '1 hour', 'conformance'),
                        complete_response(token, 99, 'taken over')
""")
_ANSWER_PLAINLY = text("""
    UPDATE llm_responses SET status = 'S', overall_score = 99, response_text = 'taken over'
    WHERE batch_id = :batch_id
""")
_CLOSE_REST = text("""
    UPDATE llm_responses SET status = 'F', lease_expires_at = NULL
    WHERE batch_id = :batch_id AND completed_processing_at IS NULL
""")


@dataclass(frozen=True)
class SeenRow:
    """A row as a trial left it; its number is that of the case."""

    number: int
    status: str
    overall_score: float | None
    response_text: str | None
    error_message: str | None
    input_tokens: int | None
    output_tokens: int | None
    deliveries: int
    lease_expires_at: Any
    lease_seconds: float | None

    @property
    def done(self) -> bool:
        """Whether it succeeded or failed."""
        return self.status in ("S", "SUCCESS", "COMPLETED", "F", "FAILED", "TIMEOUT")

    @property
    def succeeded(self) -> bool:
        """Whether it succeeded."""
        return self.status in ("S", "SUCCESS", "COMPLETED")


@dataclass(frozen=True)
class Scratch:
    """The scratch database, as its owner sees it; `url` is what the processor is told."""

    engine: Engine
    url: str
    role: str

    def queue_cases(self, batch_id: int, cases: Sequence[Case], base_url: str) -> None:
        """Queue one row for each case, as a batch of its own."""
        with self.engine.begin() as connection:
            distinct = {case.sha256: case for case in cases}
            missing = sorted(distinct.keys() - known_contents(connection, list(distinct)))
            copy_documents(connection, (_document(distinct[sha256]) for sha256 in missing))
            stored = known_contents(connection, list(distinct))
            config = json.dumps({"batch": {"metadata": {"conformance": True}}, "prompts": _prompts(cases)})
            queue.publish_config(connection, batch_id, config, "0" * 64)
            for case in cases:
                queue.enqueue(
                    connection,
                    batch_id,
                    {stored[case.sha256]: f"{case.name}.txt"},
                    [{"id": case.number}],
                    [_connection(base_url)],
                    priority=10,
                )

    def rows(self, batch_id: int) -> list[SeenRow]:
        """The rows of a batch, by the number of their case."""
        with self.engine.connect() as connection:
            return [SeenRow(*row) for row in connection.execute(_ROWS, {"batch_id": batch_id})]

    def end_leases(self) -> None:
        """Let the time of all leases be over, and what they held be back in the queue."""
        with self.engine.begin() as connection:
            connection.execute(_END_LEASES)
            queue.tidy(connection)

    def answer_in_its_place(self, batch_id: int, leased: bool) -> None:
        """Write another result into a batch's one row while a processor still works on it.

        In one transaction, so that the row is never there for others to take.
        """
        with self.engine.begin() as connection:
            if leased:
                connection.execute(_END_LEASES)
                queue.tidy(connection)
            connection.execute(_TAKE_OVER if leased else _ANSWER_PLAINLY, {"batch_id": batch_id})

    def restrict(self, leased: bool) -> None:
        """Leave the processor the rights of its kind alone, as it has them in production."""
        other = PLAIN_WORKER if leased else WORKER
        with self.engine.begin() as connection:
            connection.exec_driver_sql(f"REVOKE {other} FROM {self.role}")

    def close(self, batch_id: int) -> None:
        """Take what is left of a batch out of the queue, so that the next trial is not about it."""
        with self.engine.begin() as connection:
            connection.execute(_CLOSE_REST, {"batch_id": batch_id})


@contextmanager
def scratch_database(server: EmbeddedServer) -> Iterator[Scratch]:
    """A new database on the embedded server, and a login role with the rights of processors."""
    name = f"conformance_{uuid4().hex[:12]}"
    guard(server)
    server.ensure()
    server.ensure_database(name)
    engine = create_engine(server.url(name), hide_parameters=True)
    try:
        upgrade(engine, Schema.KNOWLEDGE)
        grant_roles(engine, Schema.KNOWLEDGE)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN IN ROLE {WORKER}, {PLAIN_WORKER}")
        as_processor = engine.url.set(drivername="postgresql", username=name)
        yield Scratch(engine, as_processor.render_as_string(hide_password=False), name)
    finally:
        engine.dispose()
        _drop(server, name)


def _drop(server: EmbeddedServer, name: str) -> None:
    admin = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        connection.exec_driver_sql(f"DROP ROLE IF EXISTS {name}")
    admin.dispose()


def _document(case: Case) -> NewDocument:
    content_type, extension = ("text/plain", "txt") if case.is_text else ("application/octet-stream", "bin")
    encoded = pybase64.b64encode(case.content)
    return NewDocument(case.sha256, len(case.content), content_type, extension, [encoded])


def _prompts(cases: Sequence[Case]) -> list[dict[str, Any]]:
    return [{"id": case.number, "name": case.name, "text": case.prompt} for case in cases]


def _connection(base_url: str) -> dict[str, Any]:
    return {
        "id": 1,
        "name": "conformance",
        "provider_type": "openai",
        "model_name": "conformance-1",
        "base_url": base_url,
        "port_no": None,
        "connection_config": {"temperature": 0},
        "api_key_env": KEY_VARIABLE,
    }
