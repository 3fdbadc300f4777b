"""Upgrades databases with Alembic, if an upgrade is necessary.

`HEADS` avoids importing Alembic in the common case of a current database.
"""

from enum import Enum
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.lock_waits import MAY_MIGRATE, AdvisoryLock, take_advisory_lock, wait_at_most

# A number that other programs are unlikely to use: "doceval" as bytes.
MIGRATION_LOCK = AdvisoryLock(0x646F6365_76616C)
SECONDS_FOR_TABLES = 5.0


class Schema(Enum):
    """The two schemas; the value is the name of the folder of migrations."""

    DOC_EVAL = "doc_eval"
    KNOWLEDGE = "knowledge"

    @property
    def version_table(self) -> str:
        """Alembic's version table of this schema."""
        return f"doceval_{self.value}_version"


HEADS = {Schema.DOC_EVAL: "0015", Schema.KNOWLEDGE: "0014"}


def upgrade(engine: Engine, schema: Schema) -> bool:
    """Upgrade the database to the newest schema; safe for concurrent processes.

    Returns
    -------
    bool
        Whether an upgrade was necessary.

    Raises
    ------
    DatabaseError
        The database has unrelated tables of the same names, or a newer schema.
    """
    if revision(engine, schema) == HEADS[schema]:
        return False
    with engine.begin() as connection:
        lock_schema(connection)
        _run_alembic(connection, schema)
    return True


def require_current(engine: Engine, schema: Schema) -> None:
    """Check that a database has the newest schema, without writing.

    Raises
    ------
    DatabaseError
        Its schema is missing, older or newer.
    """
    found, head = revision(engine, schema), HEADS[schema]
    if found == head:
        return
    state = "has no tables of doceval" if found is None else f"is at revision {found} instead of {head}"
    fix = "run doceval init" if found is None or found < head else "install the version that ran doceval init"
    raise DatabaseError(f"database {engine.url.database} {state}, and DOCEVAL_MIGRATE=never: {fix}")


def lock_schema(connection: Connection) -> None:
    """Lock tables, roles and grants against concurrent changes until the end of the transaction.

    Limits the time that statements of the transaction wait for table locks to `SECONDS_FOR_TABLES`, because
    all other sessions wait behind them.

    Raises
    ------
    DatabaseError
        A session that may not change tables holds the lock.
    """
    take_advisory_lock(connection, MIGRATION_LOCK, MAY_MIGRATE, f"database {connection.engine.url.database}")
    wait_at_most(connection, SECONDS_FOR_TABLES)


def revision(engine: Engine, schema: Schema) -> str | None:
    """The schema revision of a database; None without this schema."""
    with engine.connect() as connection:
        exists = connection.scalar(text("SELECT to_regclass(:name)"), {"name": schema.version_table})
        if exists is None:
            return None
        version: str | None = connection.scalar(text(f"SELECT version_num FROM {schema.version_table}"))
        return version


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
            f"database {database} was created by a newer version of doceval_pipeline: install that version"
        ) from error
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != "42P07":  # duplicate_table
            raise
        raise DatabaseError(
            f"database {database} already has unrelated tables with the same names "
            f"({str(error.orig).splitlines()[0]}): choose another database"
        ) from None
