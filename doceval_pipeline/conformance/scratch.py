"""A database of its own for one run: made, filled, read, and dropped again with its roles.

A run that was killed leaves them; the next one drops them.

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
from sqlalchemy import Connection, Engine, NullPool, create_engine, text

from doceval_pipeline.conformance.cases import Case
from doceval_pipeline.embedded.engines import guard
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.knowledge import queue
from doceval_pipeline.knowledge.documents import NewDocument, copy_documents, find_documents
from doceval_pipeline.migrations.roles import ROLES, grant_roles
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

_PREFIX = "conformance_"
# Each run holds an advisory lock in the database postgres, whose key are the digits of its name. The key 0 is
# of those that make or drop something.
_ALL = 0
_SECONDS_FOR_OTHERS = 60
_LOCK = text("SELECT pg_advisory_lock(:key)")
_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_MADE = text(f"""
    SELECT name
    FROM (SELECT datname::text FROM pg_database UNION SELECT rolname::text FROM pg_roles) AS found(name)
    WHERE name ~ '^{_PREFIX}[0-9a-f]{{12}}$'
""")
# What group roles are called that a run created.
_MARK = "created by doceval conformance, and dropped by it once nothing uses it"
_GROUPS = text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:names)")
_UNUSED_GROUPS = text("""
    SELECT rolname FROM pg_roles r
    WHERE rolname = ANY(:names) AND shobj_description(oid, 'pg_authid') = :mark
      AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.roleid = r.oid)
      AND NOT EXISTS (SELECT FROM pg_shdepend d
                      WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid)
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
            missing = sorted(distinct.keys() - find_documents(connection, list(distinct)))
            copy_documents(connection, (_document(distinct[sha256]) for sha256 in missing))
            stored = find_documents(connection, list(distinct))
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
    """A new database on the embedded server, and a login role with the rights of processors.

    Databases and roles of runs that were killed are dropped first.
    """
    name = f"{_PREFIX}{uuid4().hex[:12]}"
    guard(server)
    server.ensure()
    # Without a pool: a session, and with it its locks, ends with its connection.
    admin = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    engine = create_engine(server.url(name), hide_parameters=True)
    with admin.connect() as owner:
        owner.execute(_LOCK, {"key": _key(name)})
        try:
            with _alone(admin) as connection:
                _drop_leftovers(connection)
                server.ensure_database(name)
                _set_up(engine, name)
            as_processor = engine.url.set(drivername="postgresql", username=name)
            yield Scratch(engine, as_processor.render_as_string(hide_password=False), name)
        finally:
            engine.dispose()
            with _alone(admin) as connection:
                _drop(connection, name)
                _drop_groups(connection)


@contextmanager
def _alone(admin: Engine) -> Iterator[Connection]:
    """A connection while which no other run makes or drops anything."""
    with admin.connect() as connection:
        connection.exec_driver_sql(f"SET lock_timeout = '{_SECONDS_FOR_OTHERS}s'")
        connection.execute(_LOCK, {"key": _ALL})
        yield connection


def _set_up(engine: Engine, name: str) -> None:
    upgrade(engine, Schema.KNOWLEDGE)
    with engine.begin() as connection:
        # With the mark in the same transaction: a run that is killed here leaves no role that nobody drops.
        for group in ROLES.keys() - set(connection.scalars(_GROUPS, {"names": list(ROLES)})):
            connection.exec_driver_sql(f"CREATE ROLE {group} NOLOGIN")
            connection.exec_driver_sql(f"COMMENT ON ROLE {group} IS '{_MARK}'")
    grant_roles(engine, Schema.KNOWLEDGE)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN IN ROLE {WORKER}, {PLAIN_WORKER}")


def _key(name: str) -> int:
    """Of the advisory lock that a run holds as long as it lives."""
    return int(name.removeprefix(_PREFIX), 16)


def _drop_leftovers(connection: Connection) -> None:
    """Drop what runs left that were killed: nobody holds their lock."""
    for name in list(connection.scalars(_MADE)):
        if connection.execute(_TRY_LOCK, {"key": _key(name)}).scalar_one():
            _drop(connection, name)


def _drop(connection: Connection, name: str) -> None:
    connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    connection.exec_driver_sql(f"DROP ROLE IF EXISTS {name}")


def _drop_groups(connection: Connection) -> None:
    """Drop the group roles that a run created and that nothing and nobody uses."""
    if names := list(connection.scalars(_UNUSED_GROUPS, {"names": list(ROLES), "mark": _MARK})):
        connection.exec_driver_sql(f"DROP ROLE {', '.join(names)}")


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
