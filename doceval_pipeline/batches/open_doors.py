"""What the login roles of processors and readers could do to others, and the statement that ends it.

No grant on a table says it: only the owner of a database, or a superuser, can take these rights away, and
managed servers may refuse.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, text

from doceval_pipeline.batches.databases import DAGSTER, DOC_EVAL, KNOWLEDGE, Databases, dagster_engine
from doceval_pipeline.batches.locks import LOCK_CLASS
from doceval_pipeline.doc_eval import recurring
from doceval_pipeline.doc_eval.runs import live
from doceval_pipeline.errors import DocEvalError
from doceval_pipeline.lock_waits import (
    MAY_MIGRATE,
    MAY_WRITE_BATCHES,
    holders_sentence,
    lock_holders,
    untrusted_holders_of,
)
from doceval_pipeline.migrations.roles import AS_OTHERS_BEGIN, HIDDEN, LONGEST_IDLE
from doceval_pipeline.migrations.upgrade import MIGRATION_LOCK

# Logins `r` that are members of a role for others than the pipeline, and may connect here; those that
# `doceval conformance` makes live for minutes.
_IS_LOGIN = """
    r.rolcanlogin AND NOT r.rolsuper AND r.rolname !~ '^conformance_[0-9a-f]+$'
    AND has_database_privilege(r.oid, current_database(), 'CONNECT')
    AND EXISTS (
        SELECT FROM pg_roles g
        WHERE g.rolname IN ('doceval_worker', 'doceval_plain_worker', 'doceval_reader')
          AND pg_has_role(r.oid, g.oid, 'MEMBER'))
"""
_LOGINS = f"FROM pg_roles r WHERE {_IS_LOGIN}"
# Of several settings the one for the role in this database counts, then the role's, then the database's.
# Where a setting of this role hides that of the server, the server is taken to have none.
_IDLE_LIMITS = text(f"""
    SELECT r.rolname, coalesce(own.of_role, false), coalesce(own.here, false),
           coalesce(own.value, (SELECT CASE WHEN {HIDDEN} THEN '0' ELSE setting END FROM pg_settings
                                WHERE name = 'idle_in_transaction_session_timeout'))
    FROM pg_roles r LEFT JOIN LATERAL (
        SELECT s.setrole <> 0 AS of_role, s.setdatabase <> 0 AS here, split_part(setting, '=', 2) AS value
        FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS setting
        WHERE s.setrole IN (0, r.oid)
          AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
          AND starts_with(setting, 'idle_in_transaction_session_timeout=')
        ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC LIMIT 1) own ON true
    WHERE {_IS_LOGIN}
    ORDER BY 1
""")
_MAKE_LARGE_OBJECTS = text(f"""
    SELECT r.rolname {_LOGINS} AND has_function_privilege(r.oid, 'lo_create(oid)', 'EXECUTE') ORDER BY 1
""")
_MAY_CONNECT = text(f"SELECT r.rolname {_LOGINS} ORDER BY 1")
# Locks by one number of the migrations, and by two of the given classes.
_IS_OURS = """
    CASE l.objsubid WHEN 1 THEN (l.classid, l.objid) = (CAST(:high AS oid), CAST(:low AS oid))
                    ELSE CAST(l.classid AS bigint) = ANY (CAST(:classes AS bigint[])) END
"""
_MIGRATION = {name: MIGRATION_LOCK.in_pg_locks[name] for name in ("high", "low")}
_STAGER_SEES_SESSIONS = text("""
    SELECT bool_and(pg_has_role(oid, 'pg_read_all_stats', 'USAGE')) FROM pg_roles
    WHERE rolname = 'doceval_stager'
""")
_LIMIT = "idle_in_transaction_session_timeout"
# How many of the next smaller unit, to which PostgreSQL rounds a fraction, are in each unit.
_IN_A_UNIT = {"d": 24, "h": 60, "min": 60, "s": 1000, "ms": 1, "us": 0.001, "": 1}
_NUMBER_AND_UNIT = re.compile(r"\s*(.*?)\s*(d|h|min|s|ms|us|)\s*")
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
        (
            databases.doc_eval,
            DOC_EVAL[0],
            MAY_WRITE_BATCHES,
            [LOCK_CLASS, live.LOCK_CLASS, recurring.LOCK_CLASS],
        ),
        (databases.knowledge, KNOWLEDGE[0], MAY_MIGRATE, []),
    )
    for engine, variable, trusted, classes in sides:
        with engine.connect() as connection:
            found += _rights(connection, variable)
            query = untrusted_holders_of(trusted, _IS_OURS)
            others = lock_holders(connection, query, {"classes": classes, **_MIGRATION})
        if others:
            found.append(f"{variable}: locks of the pipeline are taken by others: {holders_sentence(others)}")
    return [*found, *_doors_of_dagster(databases)]


def _rights(connection: Connection, variable: str) -> Iterator[str]:
    database = connection.engine.url.database
    yield from _idle_for_ever(connection, variable)
    if logins := _names(connection, _MAKE_LARGE_OBJECTS):
        yield (
            f"{variable}: {logins} can fill the disk with large objects: as a superuser, in database "
            f'"{database}", {_REVOKE_LARGE_OBJECTS}'
        )
    if connection.scalar(_STAGER_SEES_SESSIONS) is False:
        yield (
            f"{variable}: members of doceval_stager cannot see for how long others hold locks: as a "
            "superuser, GRANT pg_read_all_stats TO doceval_stager"
        )


def _idle_for_ever(connection: Connection, variable: str) -> Iterator[str]:
    connection.execute(AS_OTHERS_BEGIN)
    limits = [row for row in connection.execute(_IDLE_LIMITS) if is_for_ever(row[3])]
    database = connection.engine.url.database
    by_the_database = [name for name, of_role, _, _ in limits if not of_role]
    if by_the_database:
        yield (
            f"{variable}: transactions of {_listed(by_the_database)} may be idle for ever and keep their "
            f'locks: as the owner of the database, ALTER DATABASE "{database}" SET {_LIMIT} = '
            f"'{LONGEST_IDLE}'"
        )
    for name, of_role, here, _ in limits:
        if of_role:
            place = f' IN DATABASE "{database}"' if here else ""
            yield (
                f"{variable}: role {name} has set that its transactions may be idle for ever and keep their "
                f'locks: as a superuser, or as that role, ALTER ROLE "{name}"{place} RESET {_LIMIT}'
            )


def is_for_ever(limit: str) -> bool:
    """Whether a time limit, as PostgreSQL has accepted it in milliseconds or with a unit, is none.

    PostgreSQL rounds a fraction to the next smaller unit: `0.001h` is none.
    """
    found = _NUMBER_AND_UNIT.fullmatch(limit)
    number, unit = found.groups() if found else (limit, "")
    try:
        amount = int(number, 16) if "x" in number.lower() else float(number)
    except ValueError:
        return False
    return round(amount * _IN_A_UNIT[unit]) == 0


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
    return _listed(list(connection.scalars(query)))


def _listed(names: Sequence[str]) -> str:
    return f"role{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else ""
