"""The roles of the databases, and what each may do: group roles, which login roles are made members of.

The grants are in a roles.sql beside the migrations of each schema.
"""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.migrations.upgrade import Schema, lock_schema

# Each with who is meant to be a member of it.
ROLES = {
    "doceval_owner": "owns tables and functions; for doceval init alone",
    "doceval_stager": "the pipeline: doceval, Dagster",
    "doceval_worker": "processors that call the functions",
    "doceval_plain_worker": "processors that write by UPDATE",
    "doceval_reader": "people and programs that look",
}

_EXISTING = text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:names)")
# Giving a table to a role takes membership in it, except for a superuser.
_JOIN_OWNER = text("""
    DO $$ BEGIN
        IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            GRANT doceval_owner TO CURRENT_USER;
        END IF;
    END $$
""")
LONGEST_IDLE = "10min"
_MAY_CREATE_ROLES = text("SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user")
_NAME_TABLES = text("SELECT set_config('doceval.tables', :tables, true)")
_TABLES_OF_OTHERS = text("""
    SELECT c.relname, pg_get_userbyid(c.relowner) FROM pg_class c
    WHERE c.relnamespace = CAST(current_schema() AS regnamespace) AND c.relname = ANY (:tables)
      AND NOT has_table_privilege('doceval_stager', c.oid, 'INSERT')
    ORDER BY 1
""")
# To see since when others are in a transaction; on some servers only a superuser may grant it.
_SHOW_SESSIONS = text("""
    DO $$ BEGIN
        GRANT pg_read_all_stats TO doceval_stager;
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END $$
""")
# Where the role's own setting hides what other sessions begin with, a database without a limit has none.
HIDDEN = "source IN ('user', 'database user', 'client')"
_HAS_NO_IDLE_LIMIT = text(f"""
    SELECT (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database())
       AND (setting = '0' OR {HIDDEN} AND NOT EXISTS (
           SELECT FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS own
           WHERE s.setrole = 0 AND s.setdatabase IN (0, (SELECT oid FROM pg_database
                                                         WHERE datname = current_database()))
             AND starts_with(own, 'idle_in_transaction_session_timeout=')))
    FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'
""")
# Until the end of the transaction, as a session of another program of the same role begins.
AS_OTHERS_BEGIN = text("SET LOCAL idle_in_transaction_session_timeout TO DEFAULT")
_LIMIT_IDLE = text(f"""
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET idle_in_transaction_session_timeout = %L',
                       current_database(), '{LONGEST_IDLE}');
    END $$
""")
_INSUFFICIENT_PRIVILEGE = "42501"


def grant_roles(engine: Engine, schema: Schema) -> None:
    """Create the roles on a database's server, and give each what it may do in this schema.

    A second time changes nothing; a grant that is no longer meant is taken back.

    Raises
    ------
    DatabaseError
        The connection's role may not create roles or give away the tables.
    """
    try:
        with engine.begin() as connection:
            lock_schema(connection)
            _make_roles(connection)
            connection.execute(_JOIN_OWNER)
            connection.exec_driver_sql(_grants(schema), execution_options={"no_parameters": True})
            connection.execute(_SHOW_SESSIONS)
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise DatabaseError(
            f"the roles of database {engine.url.database} cannot be made "
            f"({str(error.orig).splitlines()[0]}): run doceval init --roles as a role that may create "
            "roles and that owns the tables"
        ) from None


def admit_to_dagster(engine: Engine, tables: Sequence[str]) -> None:
    """Let members of doceval_owner and doceval_stager use Dagster's database, and keep others out.

    Others are kept out where Dagster has a database of its own, which the role of `engine` owns. Nothing is
    changed on a server that has no such roles, and where the role may make none.

    Parameters
    ----------
    tables
        Names of all of Dagster's tables.

    Raises
    ------
    DatabaseError
        Tables belong to a role on behalf of which that of `engine` cannot grant anything.
    """
    with engine.begin() as connection:
        lock_schema(connection)
        missing = ROLES.keys() - set(connection.scalars(_EXISTING, {"names": list(ROLES)}))
        if missing and not connection.scalar(_MAY_CREATE_ROLES):
            return
        _make_roles(connection)
        connection.execute(_NAME_TABLES, {"tables": ",".join(tables)})
        connection.exec_driver_sql(_statements("dagster_roles"), execution_options={"no_parameters": True})
        others = connection.execute(_TABLES_OF_OTHERS, {"tables": list(tables)}).all()
    if others:
        owner = others[0][1]
        raise DatabaseError(
            f"DAGSTER_POSTGRES_URL: {', '.join(row[0] for row in others if row[1] == owner)} belong to role "
            f"{owner}: run doceval init --roles with DAGSTER_POSTGRES_URL of {owner}"
        )


def end_idle_transactions(engine: Engine) -> None:
    """Let a database end transactions that are idle for `LONGEST_IDLE`, where that is not limited yet.

    The pipeline's own sessions have no limit. Nothing is changed where the role does not own the database.
    """
    with engine.begin() as connection:
        connection.execute(AS_OTHERS_BEGIN)
        if connection.execute(_HAS_NO_IDLE_LIMIT).scalar_one():
            lock_schema(connection)
            connection.execute(_LIMIT_IDLE)


def _make_roles(connection: Connection) -> None:
    existing = set(connection.scalars(_EXISTING, {"names": list(ROLES)}))
    for name in ROLES.keys() - existing:
        connection.exec_driver_sql(f"CREATE ROLE {name} NOLOGIN")


def _grants(schema: Schema) -> str:
    return _statements(f"{schema.value}/roles").replace(
        "    -- include large_objects.sql\n", _statements("large_objects")
    )


def _statements(name: str) -> str:
    return (Path(__file__).parent / f"{name}.sql").read_text(encoding="utf-8")
