"""What the login roles of processors and readers could do to others, and the statement that ends it.

No grant on a table says it: only the owner of a database, or a superuser, can take these rights away, and
managed servers may refuse.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Engine, text

from doceval_pipeline.batches.databases import DAGSTER, DOC_EVAL, KNOWLEDGE, Databases, dagster_engine
from doceval_pipeline.batches.staging import LOCK_CLASS
from doceval_pipeline.doc_eval import live_runs
from doceval_pipeline.errors import DocEvalError
from doceval_pipeline.lock_waits import MAY_MIGRATE, MAY_WRITE_BATCHES, Holder, described
from doceval_pipeline.migrations.roles import LONGEST_IDLE
from doceval_pipeline.migrations.upgrade import MIGRATION_LOCK

# Logins `r` that are members of a role for others than the pipeline, and may connect here; those that
# `doceval conformance` makes live for minutes.
_LOGINS = """
    FROM pg_roles r
    WHERE r.rolcanlogin AND NOT r.rolsuper AND r.rolname !~ '^conformance_[0-9a-f]+$'
      AND has_database_privilege(r.oid, current_database(), 'CONNECT')
      AND EXISTS (
          SELECT FROM pg_roles g
          WHERE g.rolname IN ('doceval_worker', 'doceval_plain_worker', 'doceval_reader')
            AND pg_has_role(r.oid, g.oid, 'MEMBER'))
"""
# Of several settings the one for the role in this database counts, then the role's, then the database's.
_UNLIMITED = text(f"""
    SELECT r.rolname {_LOGINS}
      AND coalesce((
          SELECT split_part(setting, '=', 2)
          FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS setting
          WHERE s.setrole IN (0, r.oid)
            AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
            AND starts_with(setting, 'idle_in_transaction_session_timeout=')
          ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1),
          (SELECT reset_val FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout')) = '0'
    ORDER BY 1
""")
_MAKE_LARGE_OBJECTS = text(f"""
    SELECT r.rolname {_LOGINS} AND has_function_privilege(r.oid, 'lo_create(oid)', 'EXECUTE') ORDER BY 1
""")
_MAY_CONNECT = text(f"SELECT r.rolname {_LOGINS} ORDER BY 1")
_STRANGERS = """
    SELECT l.pid, l.virtualtransaction, a.usename, a.application_name, a.state,
           extract(epoch FROM clock_timestamp() - a.xact_start)::float
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database() AND NOT {trusted}
      AND CASE l.objsubid WHEN 1 THEN (l.classid, l.objid) = (CAST({high} AS oid), CAST({low} AS oid))
                          ELSE CAST(CAST(l.classid AS bigint) AS int) = ANY (:classes) END
    ORDER BY l.pid
"""
_MIGRATION = {name: MIGRATION_LOCK.in_pg_locks[name] for name in ("high", "low")}
_REVOKE_LARGE_OBJECTS = (
    "REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC"
)


def open_doors(databases: Databases) -> list[str]:
    """One line for each right that `doceval init --roles` could not take from others, and for their locks.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
    """
    found: list[str] = []
    sides: tuple[tuple[Engine, str, str, list[int]], ...] = (
        (databases.doc_eval, DOC_EVAL[0], MAY_WRITE_BATCHES, [LOCK_CLASS, live_runs.LOCK_CLASS]),
        (databases.knowledge, KNOWLEDGE[0], MAY_MIGRATE, []),
    )
    for engine, variable, trusted, classes in sides:
        with engine.connect() as connection:
            found += _rights(connection, variable)
            rows = connection.execute(
                text(_STRANGERS.format(trusted=trusted, **_MIGRATION)), {"classes": classes}
            )
            strangers = [Holder(*row) for row in rows]
        if strangers:
            found.append(f"{variable}: locks of the pipeline are taken by others: {described(strangers)}")
    return [*found, *_doors_of_dagster(databases)]


def _rights(connection: Connection, variable: str) -> Iterator[str]:
    database = connection.engine.url.database
    if logins := _names(connection, _UNLIMITED):
        yield (
            f"{variable}: transactions of {logins} may be idle for ever and keep their locks: as the owner "
            f'of the database, ALTER DATABASE "{database}" SET idle_in_transaction_session_timeout = '
            f"'{LONGEST_IDLE}'"
        )
    if logins := _names(connection, _MAKE_LARGE_OBJECTS):
        yield (
            f"{variable}: {logins} can fill the disk with large objects: as a superuser, in database "
            f'"{database}", {_REVOKE_LARGE_OBJECTS}'
        )


def _doors_of_dagster(databases: Databases) -> Iterator[str]:
    engine: Engine | None = None
    try:
        engine = dagster_engine(databases.settings)
    except DocEvalError:
        # Who only reads the other two may not connect to it.
        return
    try:
        shared = engine.url.database in (databases.doc_eval.url.database, databases.knowledge.url.database)
        with engine.connect() as connection:
            logins = "" if shared else _names(connection, _MAY_CONNECT)
    finally:
        engine.dispose()
    if logins:
        database = engine.url.database
        yield (
            f"{DAGSTER[0]}: {logins} can connect to Dagster's database: as its owner, "
            f'REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC, after '
            f'GRANT CONNECT ON DATABASE "{database}" TO the role in {DAGSTER[0]}'
        )


def _names(connection: Connection, query: Any) -> str:
    names = list(connection.scalars(query))
    return f"role{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else ""
