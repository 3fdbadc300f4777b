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
_OWNS_DATABASE = """
    (SELECT pg_has_role(current_user, datdba, 'USAGE') FROM pg_database WHERE datname = current_database())
"""
_IS_DAGSTERS_ALONE = text(f"""
    SELECT {_OWNS_DATABASE} AND NOT EXISTS (
        SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema'
          AND NOT starts_with(n.nspname, 'pg_') AND c.relname <> ALL (:tables))
""")
_KEEP_OUT = text("""
    DO $$ BEGIN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO doceval_owner, doceval_stager, %I',
                       current_database(), current_user);
        EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database());
    END $$
""")
# What a session of another program begins with; ours have set another value since.
_HAS_NO_IDLE_LIMIT = text(f"""
    SELECT {_OWNS_DATABASE} AND reset_val = '0' FROM pg_settings
    WHERE name = 'idle_in_transaction_session_timeout'
""")
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
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise DatabaseError(
            f"the roles of database {engine.url.database} cannot be made "
            f"({str(error.orig).splitlines()[0]}): run doceval init --roles as a role that may create "
            "roles and that owns the tables"
        ) from None


def keep_workers_out(engine: Engine, tables: Sequence[str]) -> bool:
    """Let only the pipeline connect to Dagster's database, where it has one of its own.

    The role of `engine` and members of doceval_owner and doceval_stager still may; False where nothing was
    changed, because others use the database too or the role does not own it.

    Parameters
    ----------
    tables
        Names of all of Dagster's tables.
    """
    with engine.begin() as connection:
        if not connection.execute(_IS_DAGSTERS_ALONE, {"tables": list(tables)}).scalar_one():
            return False
        lock_schema(connection)
        _make_roles(connection)
        connection.execute(_KEEP_OUT)
    return True


def end_idle_transactions(engine: Engine) -> None:
    """Let a database end transactions that are idle for `LONGEST_IDLE`, where that is not limited yet.

    The pipeline's own sessions have no limit. Nothing is changed where the role does not own the database.
    """
    with engine.begin() as connection:
        if connection.execute(_HAS_NO_IDLE_LIMIT).scalar_one():
            lock_schema(connection)
            connection.execute(_LIMIT_IDLE)


def _make_roles(connection: Connection) -> None:
    existing = set(connection.scalars(_EXISTING, {"names": list(ROLES)}))
    for name in ROLES.keys() - existing:
        connection.exec_driver_sql(f"CREATE ROLE {name} NOLOGIN")


def _grants(schema: Schema) -> str:
    return (Path(__file__).parent / schema.value / "roles.sql").read_text(encoding="utf-8")
