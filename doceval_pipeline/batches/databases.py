"""Opens the databases of an installation: finds or starts them, and brings their schemas up to date.

Also turns errors of the database driver into one line that contains neither rows nor passwords.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Any
from urllib.parse import quote, urlencode

import psycopg2
from psycopg2.extensions import PYDATETIMETZ, new_type, register_type
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from doceval_pipeline.batches.server_requirements import require_usable
from doceval_pipeline.embedded.engines import connect_to_guarded, guard
from doceval_pipeline.embedded.parameters import CONNECTION
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import ConfigurationError, DatabaseError
from doceval_pipeline.lock_waits import LOCK_NOT_AVAILABLE, holder_note, name_holders, session_limits
from doceval_pipeline.migrations.rows import exact_formats
from doceval_pipeline.migrations.upgrade import Schema, require_current, upgrade
from doceval_pipeline.settings import DRIVER, Settings

# Variable, its attribute in Settings, and the database on the embedded server if the variable is not set.
DOC_EVAL = ("DOC_EVAL_URL", "doc_eval_url", "doc_eval")
KNOWLEDGE = ("KNOWLEDGE_DOCUMENTS_URL", "knowledge_documents_url", "KnowledgeDocuments")
DAGSTER = ("DAGSTER_POSTGRES_URL", "dagster_url", "dagster")
CONNECT_ARGUMENTS = {"application_name": "doceval", "connect_timeout": 10, "client_encoding": "utf8"}
PERCENT_ENCODED = (
    "check its form, and percent-encode special characters of the password: %40 for @, %3A for :, %2F for /"
)
# SQLSTATE of a full disk.
DISK_FULL = ("53100",)
# SQLSTATE of a backend that an administrator or a crash ended; None if the server could not report it.
CONNECTION_LOST = (None, "57P01", "57P02", "57P03")
# One day inside the range of Python's datetime, so that every time zone fits.
_EARLIEST = datetime.min.replace(tzinfo=UTC) + timedelta(1)
_LATEST = datetime.max.replace(tzinfo=UTC) - timedelta(1)
# Whether the role may use Dagster's tables, or create them, which Dagster does all at once; and the owner of
# the tables, or else of the database.
_MAY_USE_DAGSTERS_TABLES = text("""
    SELECT CASE WHEN runs IS NULL THEN has_schema_privilege(current_schema(), 'CREATE')
                ELSE has_table_privilege(runs, 'SELECT') AND has_table_privilege(runs, 'INSERT') END
               AS may_use,
           runs IS NOT NULL AS exists,
           pg_get_userbyid(coalesce((SELECT relowner FROM pg_class c WHERE c.oid = runs), datdba)) AS owner
    FROM pg_database CROSS JOIN to_regclass('runs') AS runs WHERE datname = current_database()
""")
# The roles that `doceval init --roles` lets connect, besides those of processors, which run no command.
_GROUPS_OF = {
    DOC_EVAL[0]: "doceval_stager, or of doceval_reader if it only reads",
    KNOWLEDGE[0]: "doceval_stager, or of doceval_reader if it only reads",
    DAGSTER[0]: "doceval_stager",
}
# A refused connection has no SQLSTATE.
_NO_CONNECT_PRIVILEGE = "permission denied for database"
CONNECTION_ERRORS = (psycopg2.OperationalError, psycopg2.InterfaceError)


@dataclass(frozen=True)
class Databases:
    """Both databases of an installation, reachable and with current schemas."""

    settings: Settings
    doc_eval: Engine
    knowledge: Engine


def open_databases(settings: Settings) -> Databases:
    """Connect to both databases; start the embedded server and upgrade schemas if needed.

    Repeated calls are cheap: engines and the state of their schemas are cached for the process. An embedded
    server that has stopped is started again.

    Raises
    ------
    DatabaseError, EmbeddedServerError, ConfigurationError
        One line that names the variable, the reason and the fix. If a server of your own has stopped since
        the first call, the first query fails.
    """
    databases = _open(settings)
    # Uses pooled connections: a new connection costs more than all queries of a small step.
    if not _are_reachable(databases):
        start_embedded_server(settings)
    return databases


def start_embedded_server(settings: Settings) -> EmbeddedServer | None:
    """Start the embedded server and create its databases, if any of the three databases is on it."""
    server = EmbeddedServer(settings.home)
    needed = tuple(
        database[2] for database in (DOC_EVAL, KNOWLEDGE, DAGSTER) if _is_embedded(settings, database)
    )
    if not needed:
        return None
    if not settings.migrates:
        require_own_urls(settings, "DOCEVAL_MIGRATE=never is for workers on any machine")
    guard(server)
    server.ensure()
    _ensure_databases(server, needed)
    return server


def require_dagster_database(settings: Settings) -> None:
    """Check that Dagster's own database is reachable and usable; Dagster's own error has many lines.

    Raises
    ------
    DatabaseError, EmbeddedServerError, ConfigurationError
        As `open_databases`.
    """
    engine = dagster_engine(settings)
    try:
        with database_errors(), engine.connect() as connection:
            row = connection.execute(_MAY_USE_DAGSTERS_TABLES).one()
            if not settings.migrates and not row.exists:
                raise DatabaseError(
                    f"{DAGSTER[0]}: database {describe_database(engine)} has no tables of Dagster, and "
                    "DOCEVAL_MIGRATE=never: run doceval init"
                )
            if not row.may_use:
                raise DatabaseError(
                    f"{DAGSTER[0]}: role {engine.url.username} may not use Dagster's tables in database "
                    f"{describe_database(engine)}: run doceval init --roles with the {DAGSTER[0]} of role "
                    f"{row.owner}, and GRANT doceval_stager TO {engine.url.username}"
                )
    finally:
        engine.dispose()


def require_own_urls(settings: Settings, why: str) -> None:
    """Check that no database is on the embedded server, which only processes of this machine reach.

    Raises
    ------
    ConfigurationError
        Names the variables that are not set, and the reason `why`.
    """
    embedded = [
        database[0] for database in (DOC_EVAL, KNOWLEDGE, DAGSTER) if _is_embedded(settings, database)
    ]
    if embedded:
        raise ConfigurationError(
            f"{why}, which cannot reach the embedded server on a socket of this machine: set "
            f"{', '.join(embedded)} to databases that they reach"
        )


def dagster_engine(settings: Settings) -> Engine:
    """An engine for Dagster's own database, which the caller must dispose; raises as `open_databases`."""
    start_embedded_server(settings)
    return _reachable_engine(database_url(settings, DAGSTER), DAGSTER[0])


def database_url(settings: Settings, database: tuple[str, str, str]) -> str:
    """The URL of one of the three databases; it may contain a password."""
    _, attribute, name = database
    given: str | None = getattr(settings, attribute)
    return (
        EmbeddedServer(settings.home).url(name)
        if given is None or _is_embedded(settings, database)
        else given
    )


def plain_connection(
    settings: Settings, database: tuple[str, str, str], application_name: str
) -> "psycopg2.extensions.connection":
    """A connection to one of the three databases without any of doceval's session settings.

    Raises
    ------
    psycopg2.OperationalError, EmbeddedServerError
        The server refuses the connection, or the embedded server cannot be trusted.
    """
    if _is_embedded(settings, database):
        return EmbeddedServer(settings.home).connect(database[2], application_name=application_name)
    url = database_url(settings, database).replace(DRIVER, "postgresql://", 1)
    return psycopg2.connect(url, application_name=application_name)


@contextmanager
def observed(settings: Settings, database: tuple[str, str, str], seconds: float) -> Iterator[Connection]:
    """A read-only transaction on one of the three databases that starts no server and changes no schema.

    Parameters
    ----------
    seconds
        The most that connecting and each statement may take.

    Raises
    ------
    DatabaseError, EmbeddedServerError, ConfigurationError
        The database does not answer, or not in this time.
    """
    limit = int(seconds * 1000)
    if _is_embedded(settings, database):
        guard(EmbeddedServer(settings.home))
    with database_errors(), _observing_engine(database_url(settings, database)).connect() as connection:
        connection.execute(text(f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = {limit}"))
        yield connection


def embedded_databases(settings: Settings) -> list[str]:
    """The variables of those of the three databases that are on the embedded server."""
    return [database[0] for database in (DOC_EVAL, KNOWLEDGE, DAGSTER) if _is_embedded(settings, database)]


def _is_embedded(settings: Settings, database: tuple[str, str, str]) -> bool:
    """Whether a database is on the embedded server; `doceval env` exports its URLs."""
    _, attribute, name = database
    given: str | None = getattr(settings, attribute)
    return given is None or EmbeddedServer(settings.home).is_own_url(given, name)


def plain_url(url: str, embedded: EmbeddedServer) -> str:
    """A database's URL for psql and other programs: without a driver, percent-encoded.

    SQLAlchemy accepts URLs that libpq does not, such as one with a slash in the password. The URL of the
    embedded server includes its port, because libpq would take a missing port from PGPORT.
    """
    parts = make_url(url)
    if parts.port is None and embedded.is_reached_by(parts.query.get("host")):
        parts = parts.update_query_dict({"port": CONNECTION["port"]})
    query = {key: (value,) if isinstance(value, str) else value for key, value in parts.query.items()}
    if len(hosts := query.get("host", ())) > 1:
        # SQLAlchemy has one parameter per server; libpq has a list of hosts and a list of ports.
        places = [host.partition(":") for host in hosts]
        query["host"] = (",".join(host for host, _, _ in places),)
        if any(port for _, _, port in places):
            query["port"] = (",".join(port for _, _, port in places),)
    user = "" if parts.username is None else quote(parts.username, safe="")
    password = "" if parts.password is None else ":" + quote(str(parts.password), safe="")
    host = parts.host or ""
    where = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port else "")
    login = f"{user}{password}@" if user or password else ""
    asked = urlencode(
        [(key, value) for key, values in query.items() for value in values], quote_via=quote, safe=""
    )
    return f"postgresql://{login}{where}/{quote(parts.database or '', safe='')}" + (asked and f"?{asked}")


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn errors of the driver into one line without the rows and parameters that they quote."""
    try:
        yield
    except DBAPIError as error:
        raise DatabaseError(_describe(error.orig)) from None
    except psycopg2.Error as error:
        raise DatabaseError(_describe(error)) from None
    except SQLAlchemyError as error:
        raise DatabaseError(f"the database query failed: {_reason(error)}") from None


def describe_database(engine: Engine) -> str:
    """A database's name and server, without a password."""
    url = engine.url
    server = url.query.get("host") if url.host is None else f"{url.host}:{url.port or 5432}"
    return f"{url.database or 'the default database'} on {server or 'this machine'}"


def _describe(error: BaseException | None) -> str:
    reason, state = _reason(error), getattr(error, "pgcode", None)
    if state in DISK_FULL:
        return f"the disk of the database server is full ({reason}): free space on it, and try again"
    if state == LOCK_NOT_AVAILABLE:
        return f"timed out waiting for a lock: {holder_note(error)}"
    if state in CONNECTION_LOST and isinstance(error, CONNECTION_ERRORS):
        return f"the connection to the database was lost ({reason}): try again when the server answers"
    return f"the database refused: {reason}"


def _reason(error: BaseException | None) -> str:
    # The primary message names tables and constraints; DETAIL would quote the rejected row.
    message: str | None = getattr(getattr(error, "diag", None), "message_primary", None)
    if message is None:
        lines = str(error).strip().splitlines()
        message = lines[0] if lines else type(error).__name__
    return message


@lru_cache(maxsize=8)
def _ensure_databases(server: EmbeddedServer, names: tuple[str, ...]) -> None:
    server.ensure_database(*names)


@lru_cache(maxsize=16)
def _open(settings: Settings) -> Databases:
    start_embedded_server(settings)
    engine = partial(_engine_with_schema, migrates=settings.migrates)
    return Databases(
        settings,
        engine(database_url(settings, DOC_EVAL), DOC_EVAL[0], Schema.DOC_EVAL),
        engine(database_url(settings, KNOWLEDGE), KNOWLEDGE[0], Schema.KNOWLEDGE),
    )


def _are_reachable(databases: Databases) -> bool:
    try:
        for engine in (databases.doc_eval, databases.knowledge):
            engine.connect().close()
    except DBAPIError:
        return False
    return True


@lru_cache(maxsize=16)
def _engine_with_schema(url: str, variable: str, schema: Schema, *, migrates: bool) -> Engine:
    engine = _reachable_engine(url, variable)
    with database_errors():
        if migrates:
            upgrade(engine, schema)
        else:
            require_current(engine, schema)
    return engine


@lru_cache(maxsize=16)
def _observing_engine(url: str) -> Engine:
    """An engine whose connections end with their use, so that none outlives a server."""
    try:
        return create_engine(
            url,
            hide_parameters=True,
            poolclass=NullPool,
            connect_args={**CONNECT_ARGUMENTS, "application_name": "doceval metrics", "connect_timeout": 3},
        )
    except (ArgumentError, ValueError):
        # The error of SQLAlchemy may quote the URL, including a password.
        raise ConfigurationError(f"a database's URL is not valid: {PERCENT_ENCODED}") from None


def _fix_formats(connection: Any, _record: object) -> None:
    """Override the default formats and limits of the server and the role on a new connection.

    Also reads times outside Python's range, which psycopg2 cannot.
    """
    connection.autocommit = True
    with connection.cursor() as cursor:
        limits = session_limits(connection.server_version)
        cursor.execute(f"{exact_formats(transaction_only=False)}; {limits}")
    connection.autocommit = False
    register_type(new_type(PYDATETIMETZ.values, "TIMESTAMPTZ", _read_time), connection)


def _read_time(value: str | bytes | None, cursor: Any) -> datetime | None:
    """Parse a timestamptz; a time outside Python's range becomes the nearest one inside."""
    try:
        moment: datetime | None = PYDATETIMETZ(value, cursor)
    except ValueError:
        return _EARLIEST if str(value).endswith("BC") else _LATEST
    return None if moment is None else min(max(moment, _EARLIEST), _LATEST)


def _reachable_engine(url: str, variable: str) -> Engine:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The error of make_url may quote the URL, including a password.
        raise ConfigurationError(f"{variable} is not a valid URL: {PERCENT_ENCODED}") from None
    if "@" in f"{parsed.host}{parsed.database}":
        # Otherwise the end of the password would be shown as the name of a server or a database.
        raise ConfigurationError(f"{variable}: its password contains an @: {PERCENT_ENCODED}")
    engine = create_engine(
        parsed,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=2,
        isolation_level="READ COMMITTED",
        connect_args=dict(CONNECT_ARGUMENTS),
    )
    event.listen(engine, "connect", _fix_formats)
    name_holders(engine)
    place = f"{variable}: database {describe_database(engine)}"
    try:
        require_usable(partial(_connect, engine), place)
    except psycopg2.Error as error:
        reason = _reason(error)
        if _NO_CONNECT_PRIVILEGE in reason:
            role = f"role {parsed.username}" if parsed.username else "this role"
            raise DatabaseError(
                f"{variable}: {role} may not connect to {describe_database(engine)}: the command needs a "
                f"member of {_GROUPS_OF[variable]}"
            ) from None
        raise DatabaseError(
            f"{variable}: cannot connect to {describe_database(engine)} "
            f"({reason}): "
            "check that the server is running and that the variable is correct"
        ) from None
    return engine


def _connect(engine: Engine, **more: Any) -> Any:
    """A new connection of the driver, outside the engine's pool."""
    arguments, named = engine.dialect.create_connect_args(engine.url)
    parameters = {**named, **CONNECT_ARGUMENTS, **more}
    return connect_to_guarded(parameters) or psycopg2.connect(*arguments, **parameters)
