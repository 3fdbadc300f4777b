"""Rights with which the login roles of processors and readers could disturb others, and how to revoke them.

These rights are not grants on tables: only the owner of a database, or a superuser, can revoke them, and
managed servers may refuse.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, text

from doceval_pipeline.batches.databases import DAGSTER, DOC_EVAL, KNOWLEDGE, Databases, dagster_engine
from doceval_pipeline.batches.locks import LOCK_CLASS
from doceval_pipeline.doc_eval.recurring import stored as recurring
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

# Logins `r` of roles for processors and readers that may connect here, without the short-lived logins of
# `doceval conformance`.
_IS_LOGIN = """
    r.rolcanlogin AND NOT r.rolsuper AND r.rolname !~ '^conformance_[0-9a-f]+$'
    AND has_database_privilege(r.oid, current_database(), 'CONNECT')
    AND EXISTS (
        SELECT FROM pg_roles g
        WHERE g.rolname IN ('doceval_worker', 'doceval_plain_worker', 'doceval_reader')
          AND pg_has_role(r.oid, g.oid, 'MEMBER'))
"""
_LOGINS = f"FROM pg_roles r WHERE {_IS_LOGIN}"
# The setting for the role in this database takes precedence, then the role's, then the database's. Where a
# setting of the current role hides that of the server, the server counts as having none.
_IDLE_LIMITS = text(f"""
    SELECT r.rolname, coalesce(own.of_role, false) AS of_role, coalesce(own.here, false) AS here,
           coalesce(own.value, (SELECT CASE WHEN {HIDDEN} THEN '0' ELSE setting END FROM pg_settings
                                WHERE name = 'idle_in_transaction_session_timeout')) AS value
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
# The migrations' lock, which has one number, and locks of the given classes, which have two.
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
# How many of the next smaller unit are in each unit; PostgreSQL rounds a fraction to that unit.
_IN_A_UNIT = {"d": 24, "h": 60, "min": 60, "s": 1000, "ms": 1, "us": 0.001, "": 1}
_NUMBER_AND_UNIT = re.compile(r"\s*(.*?)\s*(d|h|min|s|ms|us|)\s*")
_REVOKE_LARGE_OBJECTS = (
    "REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC"
)


def access_warnings(databases: Databases) -> list[str]:
    """One line for each right that `doceval init --roles` could not revoke, and for locks that others hold.

    Raises
    ------
    sqlalchemy.exc.DBAPIError
    """
    lines: list[str] = []
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
            lines += _rights(connection, variable)
            query = untrusted_holders_of(trusted, _IS_OURS)
            others = lock_holders(connection, query, {"classes": classes, **_MIGRATION})
        if others:
            lines.append(f"{variable}: other sessions hold locks of the pipeline: {holders_sentence(others)}")
    return [*lines, *_dagster_access(databases)]


def _rights(connection: Connection, variable: str) -> Iterator[str]:
    database = connection.engine.url.database
    yield from _unlimited_idle_time(connection, variable)
    if logins := _names(connection, _MAKE_LARGE_OBJECTS):
        yield (
            f"{variable}: {logins} can fill the disk with large objects: as a superuser, in database "
            f'"{database}", {_REVOKE_LARGE_OBJECTS}'
        )
    if connection.scalar(_STAGER_SEES_SESSIONS) is False:
        yield (
            f"{variable}: members of doceval_stager cannot see how long others hold locks: as a "
            "superuser, GRANT pg_read_all_stats TO doceval_stager"
        )


def _unlimited_idle_time(connection: Connection, variable: str) -> Iterator[str]:
    connection.execute(AS_OTHERS_BEGIN)
    limits = [row for row in connection.execute(_IDLE_LIMITS) if is_unlimited(row.value)]
    database = connection.engine.url.database
    by_the_database = [row.rolname for row in limits if not row.of_role]
    if by_the_database:
        yield (
            f"{variable}: transactions of {_listed(by_the_database)} may be idle forever and keep their "
            f'locks: as the owner of the database, ALTER DATABASE "{database}" SET {_LIMIT} = '
            f"'{LONGEST_IDLE}'"
        )
    for row in limits:
        if row.of_role:
            name, place = row.rolname, f' IN DATABASE "{database}"' if row.here else ""
            yield (
                f"{variable}: by a setting of role {name}, its transactions may be idle forever and keep "
                f'their locks: as a superuser, or as that role, ALTER ROLE "{name}"{place} RESET {_LIMIT}'
            )


def is_unlimited(limit: str) -> bool:
    """Whether a time limit of PostgreSQL, in milliseconds or with a unit, means no limit.

    PostgreSQL rounds a fraction to the next smaller unit: `0.001h` becomes 0 minutes, which means no limit.
    """
    match = _NUMBER_AND_UNIT.fullmatch(limit)
    number, unit = match.groups() if match else (limit, "")
    try:
        amount = int(number, 16) if "x" in number.lower() else float(number)
    except ValueError:
        return False
    return round(amount * _IN_A_UNIT[unit]) == 0


def _dagster_access(databases: Databases) -> Iterator[str]:
    engine: Engine | None = None
    try:
        engine = dagster_engine(databases.settings)
    except DocEvalError:
        # A role that only reads the other two databases may not connect to it.
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
