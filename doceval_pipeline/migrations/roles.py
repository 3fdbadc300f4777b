"""The group roles of the databases and their grants. Login roles become members of them.

The grants are in roles.sql beside the migrations of each schema.
"""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.migrations.upgrade import Schema, lock_schema

# Group roles with their intended members.
ROLES = {
    "doceval_owner": "owns tables and functions; only for doceval init",
    "doceval_stager": "the pipeline: doceval, Dagster",
    "doceval_worker": "processors that call the functions",
    "doceval_plain_worker": "processors that write by UPDATE",
    "doceval_reader": "people and programs that only read",
}

_EXISTING = text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:names)")
# Only members of a role, and superusers, can give it a table.
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
    SELECT c.relname AS name, pg_get_userbyid(c.relowner) AS owner FROM pg_class c
    WHERE c.relnamespace = CAST(current_schema() AS regnamespace) AND c.relname = ANY (:tables)
      AND NOT has_table_privilege('doceval_stager', c.oid, 'INSERT')
    ORDER BY 1
""")
# Shows how long other sessions are in a transaction; on some servers only a superuser may grant it.
_SHOW_SESSIONS = text("""
    DO $$ BEGIN
        GRANT pg_read_all_stats TO doceval_stager;
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END $$
""")
# If a setting of the role hides the defaults of other sessions, only a database setting counts as a limit.
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
# Until the end of the transaction: the default of new sessions of the same role.
AS_OTHERS_BEGIN = text("SET LOCAL idle_in_transaction_session_timeout TO DEFAULT")
_LIMIT_IDLE = text(f"""
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET idle_in_transaction_session_timeout = %L',
                       current_database(), '{LONGEST_IDLE}');
    END $$
""")
_INSUFFICIENT_PRIVILEGE = "42501"


def grant_roles(engine: Engine, schema: Schema) -> None:
    """Create the roles on a database's server and grant their rights in this schema.

    Idempotent; obsolete grants are revoked.

    Raises
    ------
    DatabaseError
        The role of the connection may not create roles or change the owner of the tables.
    """
    try:
        with engine.begin() as connection:
            lock_schema(connection)
            _create_roles(connection)
            connection.execute(_JOIN_OWNER)
            connection.exec_driver_sql(_grants(schema), execution_options={"no_parameters": True})
            connection.execute(_SHOW_SESSIONS)
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise DatabaseError(
            f"the roles of database {engine.url.database} cannot be created "
            f"({str(error.orig).splitlines()[0]}): run doceval init --roles as a role that may create "
            "roles and owns the tables"
        ) from None


def admit_to_dagster(engine: Engine, tables: Sequence[str]) -> None:
    """Grant doceval_owner and doceval_stager the use of Dagster's database; revoke it from others.

    Rights of others are revoked only if Dagster has a separate database that the role of `engine` owns.
    Changes nothing on a server without these roles if the role of `engine` may not create them.

    Parameters
    ----------
    tables
        Names of all tables of Dagster.

    Raises
    ------
    DatabaseError
        Tables belong to another role, so the role of `engine` cannot grant rights on them.
    """
    with engine.begin() as connection:
        lock_schema(connection)
        missing = ROLES.keys() - set(connection.scalars(_EXISTING, {"names": list(ROLES)}))
        if missing and not connection.scalar(_MAY_CREATE_ROLES):
            return
        _create_roles(connection)
        connection.execute(_NAME_TABLES, {"tables": ",".join(tables)})
        connection.exec_driver_sql(_statements("dagster_roles"), execution_options={"no_parameters": True})
        others = connection.execute(_TABLES_OF_OTHERS, {"tables": list(tables)}).all()
    if others:
        owner = others[0].owner
        names = ", ".join(row.name for row in others if row.owner == owner)
        raise DatabaseError(
            f"DAGSTER_POSTGRES_URL: {names} belong to role {owner}: "
            f"run doceval init --roles with DAGSTER_POSTGRES_URL of {owner}"
        )


def end_idle_transactions(engine: Engine) -> None:
    """Make a database end transactions that are idle for `LONGEST_IDLE`, unless it already has a limit.

    Sessions of the pipeline have no limit. Changes nothing if the role does not own the database.
    """
    with engine.begin() as connection:
        connection.execute(AS_OTHERS_BEGIN)
        if connection.execute(_HAS_NO_IDLE_LIMIT).scalar_one():
            lock_schema(connection)
            connection.execute(_LIMIT_IDLE)


def _create_roles(connection: Connection) -> None:
    existing = set(connection.scalars(_EXISTING, {"names": list(ROLES)}))
    for name in ROLES.keys() - existing:
        connection.exec_driver_sql(f"CREATE ROLE {name} NOLOGIN")


def _grants(schema: Schema) -> str:
    return _statements(f"{schema.value}/roles").replace(
        "    -- include large_objects.sql\n", _statements("large_objects")
    )


def _statements(name: str) -> str:
    return (Path(__file__).parent / f"{name}.sql").read_text(encoding="utf-8")
