"""The roles of the databases, and what each may do: group roles, which login roles are made members of.

The grants are in a roles.sql beside the migrations of each schema.
"""

from pathlib import Path

from sqlalchemy import Engine, text
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
            existing = set(connection.scalars(_EXISTING, {"names": list(ROLES)}))
            for name in ROLES.keys() - existing:
                connection.exec_driver_sql(f"CREATE ROLE {name} NOLOGIN")
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


def _grants(schema: Schema) -> str:
    return (Path(__file__).parent / schema.value / "roles.sql").read_text(encoding="utf-8")
