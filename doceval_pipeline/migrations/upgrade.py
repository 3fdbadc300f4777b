"""Runs Alembic, and only when there is something to run.

`HEADS` saves the common case, a database that is current, from loading Alembic at all.
"""

from enum import Enum
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from doceval_pipeline.errors import DatabaseError

# Any number that no other program is likely to use; "doceval" as bytes.
MIGRATION_LOCK = 0x646F6365_76616C


class Schema(Enum):
    """The two databases that have migrations; the value is the folder's name."""

    DOC_EVAL = "doc_eval"
    KNOWLEDGE = "knowledge"

    @property
    def version_table(self) -> str:
        """Alembic's version table of this schema."""
        return f"doceval_{self.value}_version"


HEADS = {Schema.DOC_EVAL: "0009", Schema.KNOWLEDGE: "0010"}


def upgrade(engine: Engine, schema: Schema) -> bool:
    """Bring `engine`'s database to the newest schema; safe from any number of processes at once.

    Returns
    -------
    bool
        Whether anything had to be done.

    Raises
    ------
    DatabaseError
        The database holds tables of the same names that are not ours, or a newer schema, or is not encoded in
        UTF-8.
    """
    if revision(engine, schema) == HEADS[schema]:
        return False
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        if schema is Schema.DOC_EVAL:
            _require_utf8(connection)
        _run_alembic(connection, schema)
    return True


def revision(engine: Engine, schema: Schema) -> str | None:
    """The revision a database is at, or None for one without our schema."""
    with engine.connect() as connection:
        exists = connection.scalar(text("SELECT to_regclass(:name)"), {"name": schema.version_table})
        if exists is None:
            return None
        found: str | None = connection.scalar(text(f"SELECT version_num FROM {schema.version_table}"))
        return found


def _require_utf8(connection: Connection) -> None:
    """Refuse a database that cannot hold and compare every name."""
    encoding = connection.scalar(text("SELECT getdatabaseencoding()"))
    if encoding != "UTF8":
        raise DatabaseError(
            f"database {connection.engine.url.database} is encoded in {encoding}: create one with "
            "ENCODING 'UTF8'"
        )


def _run_alembic(connection: Connection, schema: Schema) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / schema.value).replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=schema.version_table)
    database = connection.engine.url.database
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise DatabaseError(
            f"database {database} was made by a newer version of doceval_pipeline: install that version"
        ) from error
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != "42P07":  # duplicate_table
            raise
        raise DatabaseError(
            f"database {database} already holds other tables with the names of ours "
            f"({str(error.orig).splitlines()[0]}): choose another database"
        ) from None
