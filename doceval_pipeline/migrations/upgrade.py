"""Runs Alembic, and only when there is something to run.

`HEADS` saves the common case, a database that is current, from loading Alembic at all.
"""

from enum import Enum
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.lock_waits import MAY_MIGRATE, AdvisoryLock, take_advisory_lock, wait_at_most

# Any number that no other program is likely to use; "doceval" as bytes.
MIGRATION_LOCK = AdvisoryLock(0x646F6365_76616C)
SECONDS_FOR_TABLES = 5.0


class Schema(Enum):
    """The two databases that have migrations; the value is the folder's name."""

    DOC_EVAL = "doc_eval"
    KNOWLEDGE = "knowledge"

    @property
    def version_table(self) -> str:
        """Alembic's version table of this schema."""
        return f"doceval_{self.value}_version"


HEADS = {Schema.DOC_EVAL: "0012", Schema.KNOWLEDGE: "0012"}


def upgrade(engine: Engine, schema: Schema) -> bool:
    """Bring `engine`'s database to the newest schema; safe from any number of processes at once.

    Returns
    -------
    bool
        Whether anything had to be done.

    Raises
    ------
    DatabaseError
        The database holds tables of the same names that are not ours, or a newer schema.
    """
    if revision(engine, schema) == HEADS[schema]:
        return False
    with engine.begin() as connection:
        lock_schema(connection)
        _run_alembic(connection, schema)
    return True


def lock_schema(connection: Connection) -> None:
    """Be the only one who changes tables, roles and grants, until the transaction ends.

    Statements in it wait for the tables themselves for `SECONDS_FOR_TABLES` at most: meanwhile everybody else
    waits behind them.

    Raises
    ------
    DatabaseError
        Somebody holds the lock who may not change tables.
    """
    take_advisory_lock(connection, MIGRATION_LOCK, MAY_MIGRATE, f"database {connection.engine.url.database}")
    wait_at_most(connection, SECONDS_FOR_TABLES)


def revision(engine: Engine, schema: Schema) -> str | None:
    """The revision a database is at, or None for one without our schema."""
    with engine.connect() as connection:
        exists = connection.scalar(text("SELECT to_regclass(:name)"), {"name": schema.version_table})
        if exists is None:
            return None
        found: str | None = connection.scalar(text(f"SELECT version_num FROM {schema.version_table}"))
        return found


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
