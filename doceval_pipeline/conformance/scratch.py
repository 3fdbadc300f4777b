"""Scratch database of one run: created, filled, read, and dropped with its roles.

A killed run leaves them behind; the next run drops them.

The login role has exactly the rights of processors: first those of both kinds, and after its first claim only
those of its kind.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pybase64
from sqlalchemy import Connection, Engine, NullPool, create_engine, text

from doceval_pipeline.conformance.cases import ConformanceCase
from doceval_pipeline.domain.files import DocumentRange, Fingerprint
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
# Only the owner can expire leases.
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
# Each run holds an advisory lock in the database postgres; its key is the number in the run's name. The key 0
# serialises runs while they create or drop something.
_SETUP_KEY = 0
_SECONDS_FOR_OTHERS = 60
_LOCK = text("SELECT pg_advisory_lock(:key)")
_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key)")
_SCRATCH_NAMES = text(f"""
    SELECT name
    FROM (SELECT datname::text FROM pg_database UNION SELECT rolname::text FROM pg_roles) AS found(name)
    WHERE name ~ '^{_PREFIX}[0-9a-f]{{12}}$'
""")
# Comment on group roles that a run created.
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
class ObservedRow:
    """A queue row after a scenario; `number` is that of its case."""

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
    """The scratch database, used by its owner; `url` is for the processor."""

    engine: Engine
    url: str
    role: str

    def queue_cases(self, batch_id: int, cases: Sequence[ConformanceCase], base_url: str) -> None:
        """Queue one row per case as a separate batch."""
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
                    [DocumentRange([stored[case.sha256]], [f"{case.name}.txt"])],
                    [{"id": case.number}],
                    [_connection(base_url)],
                    priority=10,
                )

    def rows(self, batch_id: int) -> list[ObservedRow]:
        """Rows of a batch, ordered by case number."""
        with self.engine.connect() as connection:
            return [ObservedRow(**row._mapping) for row in connection.execute(_ROWS, {"batch_id": batch_id})]

    def end_leases(self) -> None:
        """Expire all leases and return their rows to the queue."""
        with self.engine.begin() as connection:
            connection.execute(_END_LEASES)
            queue.tidy(connection)

    def write_other_result(self, batch_id: int, *, is_leased: bool) -> None:
        """Write another result into a batch's only row while a processor still works on it.

        In one transaction, so that no other processor can claim the row meanwhile.
        """
        with self.engine.begin() as connection:
            if is_leased:
                connection.execute(_END_LEASES)
                queue.tidy(connection)
            connection.execute(_TAKE_OVER if is_leased else _ANSWER_PLAINLY, {"batch_id": batch_id})

    def restrict(self, *, is_leased: bool) -> None:
        """Leave the processor only the rights of its kind, as in production."""
        other = PLAIN_WORKER if is_leased else WORKER
        with self.engine.begin() as connection:
            connection.exec_driver_sql(f"REVOKE {other} FROM {self.role}")

    def close(self, batch_id: int) -> None:
        """End the remaining rows of a batch, so that they do not disturb the next scenario."""
        with self.engine.begin() as connection:
            connection.execute(_CLOSE_REST, {"batch_id": batch_id})


@contextmanager
def scratch_database(server: EmbeddedServer) -> Iterator[Scratch]:
    """A new database on the embedded server, with a login role that has the rights of processors.

    Drops the databases and roles of killed runs first.
    """
    name = f"{_PREFIX}{uuid4().hex[:12]}"
    guard(server)
    server.ensure()
    # Without a pool, so that closing a connection ends its session and locks.
    admin = create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    engine = create_engine(server.url(name), hide_parameters=True)
    with admin.connect() as owner:
        owner.execute(_LOCK, {"key": _key(name)})
        try:
            with _exclusive(admin) as connection:
                _drop_leftovers(connection)
                server.ensure_database(name)
                _set_up(engine, name)
            as_processor = engine.url.set(drivername="postgresql", username=name)
            yield Scratch(engine, as_processor.render_as_string(hide_password=False), name)
        finally:
            engine.dispose()
            with _exclusive(admin) as connection:
                _drop(connection, name)
                _drop_groups(connection)


@contextmanager
def _exclusive(admin: Engine) -> Iterator[Connection]:
    """A connection during which no other run creates or drops anything."""
    with admin.connect() as connection:
        connection.exec_driver_sql(f"SET lock_timeout = '{_SECONDS_FOR_OTHERS}s'")
        connection.execute(_LOCK, {"key": _SETUP_KEY})
        yield connection


def _set_up(engine: Engine, name: str) -> None:
    upgrade(engine, Schema.KNOWLEDGE)
    with engine.begin() as connection:
        # With the comment in the same transaction: a run killed here leaves no unmarked role behind.
        for group in ROLES.keys() - set(connection.scalars(_GROUPS, {"names": list(ROLES)})):
            connection.exec_driver_sql(f"CREATE ROLE {group} NOLOGIN")
            connection.exec_driver_sql(f"COMMENT ON ROLE {group} IS '{_MARK}'")
    grant_roles(engine, Schema.KNOWLEDGE)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN IN ROLE {WORKER}, {PLAIN_WORKER}")


def _key(name: str) -> int:
    """Key of the advisory lock that a run holds while it exists."""
    return int(name.removeprefix(_PREFIX), 16)


def _drop_leftovers(connection: Connection) -> None:
    """Drop the databases and roles of killed runs, recognised by their free locks."""
    for name in list(connection.scalars(_SCRATCH_NAMES)):
        if connection.execute(_TRY_LOCK, {"key": _key(name)}).scalar_one():
            _drop(connection, name)


def _drop(connection: Connection, name: str) -> None:
    connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    connection.exec_driver_sql(f"DROP ROLE IF EXISTS {name}")


def _drop_groups(connection: Connection) -> None:
    """Drop unused group roles that a run created."""
    if names := list(connection.scalars(_UNUSED_GROUPS, {"names": list(ROLES), "mark": _MARK})):
        connection.exec_driver_sql(f"DROP ROLE {', '.join(names)}")


def _document(case: ConformanceCase) -> NewDocument:
    content_type, extension = ("text/plain", "txt") if case.is_text else ("application/octet-stream", "bin")
    encoded = pybase64.b64encode(case.content)
    fingerprint = Fingerprint(case.sha256, len(case.content), content_type, extension)
    return NewDocument(fingerprint, [encoded])


def _prompts(cases: Sequence[ConformanceCase]) -> list[dict[str, Any]]:
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
