"""Opens the databases of an installation: finds or starts them, and brings their schemas up to date.

Also turns what a database driver raises into one line that holds neither a row nor a password.
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
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from doceval_pipeline.batches.servers import require_usable
from doceval_pipeline.embedded.engines import connect_to_guarded, guard
from doceval_pipeline.embedded.parameters import CONNECTION
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import ConfigurationError, DatabaseError
from doceval_pipeline.lock_waits import LOCK_NOT_AVAILABLE, holder_note, name_holders, session_limits
from doceval_pipeline.migrations.rows import exact_formats
from doceval_pipeline.migrations.upgrade import Schema, upgrade
from doceval_pipeline.settings import DRIVER, Settings

# Variable, its attribute in Settings, and the database on the embedded server that stands in for it.
DOC_EVAL = ("DOC_EVAL_URL", "doc_eval_url", "doc_eval")
KNOWLEDGE = ("KNOWLEDGE_DOCUMENTS_URL", "knowledge_documents_url", "KnowledgeDocuments")
DAGSTER = ("DAGSTER_POSTGRES_URL", "dagster_url", "dagster")
CONNECT_ARGUMENTS = {"application_name": "doceval", "connect_timeout": 10, "client_encoding": "utf8"}
PERCENT_ENCODED = "check its form, and write what is special in a password as %40 for @, %3A for :, %2F for /"
# SQLSTATE of a disk that is full.
NO_ROOM = ("53100",)
# Of a backend that an administrator or a crash ended, and none where not even that could be told.
CONNECTION_LOST = (None, "57P01", "57P02", "57P03")
# A day from the ends of what Python can hold, so that every time zone fits.
_EARLIEST = datetime.min.replace(tzinfo=UTC) + timedelta(1)
_LATEST = datetime.max.replace(tzinfo=UTC) - timedelta(1)
# Dagster makes all of its tables together; with the role that may let others use them, or make them.
_MAY_USE_DAGSTERS_TABLES = text("""
    SELECT CASE WHEN runs IS NULL THEN has_schema_privilege(current_schema(), 'CREATE')
                ELSE has_table_privilege(runs, 'SELECT') AND has_table_privilege(runs, 'INSERT') END,
           pg_get_userbyid(coalesce((SELECT relowner FROM pg_class c WHERE c.oid = runs), datdba))
    FROM pg_database CROSS JOIN to_regclass('runs') AS runs WHERE datname = current_database()
""")
CONNECTION_ERRORS = (psycopg2.OperationalError, psycopg2.InterfaceError)


@dataclass(frozen=True)
class Databases:
    """Both databases of an installation, reachable and with current schemas."""

    settings: Settings
    doc_eval: Engine
    knowledge: Engine


def open_databases(settings: Settings) -> Databases:
    """Reach both databases, starting the embedded server and creating schemas where needed.

    Cheap when repeated: engines and what is known of their schemas are kept for the process, and a server
    that has stopped meanwhile is started again.

    Raises
    ------
    DatabaseError, EmbeddedServerError, ConfigurationError
        One line that names the variable, the reason and the fix. A server of your own that has stopped since
        the first call is found by the first query.
    """
    databases = _open(settings)
    # On connections that are kept: a new one costs more than all that a small step asks of the databases.
    if not _answer(databases):
        start_embedded_server(settings)
    return databases


def start_embedded_server(settings: Settings) -> EmbeddedServer | None:
    """Make sure the embedded server runs and has its databases, if any of the three is on it."""
    server = EmbeddedServer(settings.home)
    needed = tuple(
        database[2] for database in (DOC_EVAL, KNOWLEDGE, DAGSTER) if _is_embedded(settings, database)
    )
    if not needed:
        return None
    guard(server)
    server.ensure()
    _ensure_databases(server, needed)
    return server


def require_dagster_database(settings: Settings) -> None:
    """Make sure that Dagster's own database can be reached and used, which Dagster tells in many lines.

    Raises
    ------
    DatabaseError, EmbeddedServerError, ConfigurationError
        As `open_databases`.
    """
    engine = dagster_engine(settings)
    try:
        with database_errors(), engine.connect() as connection:
            may_use, owner = connection.execute(_MAY_USE_DAGSTERS_TABLES).one()
            if not may_use:
                raise DatabaseError(
                    f"{DAGSTER[0]}: role {engine.url.username} may not use Dagster's tables in database "
                    f"{describe_database(engine)}: run doceval init --roles with the {DAGSTER[0]} of role "
                    f"{owner}, and GRANT doceval_stager TO {engine.url.username}"
                )
    finally:
        engine.dispose()


def dagster_engine(settings: Settings) -> Engine:
    """An engine of Dagster's own database, for the caller to dispose of; raises as the above."""
    start_embedded_server(settings)
    return _reachable_engine(database_url(settings, DAGSTER), DAGSTER[0])


def database_url(settings: Settings, database: tuple[str, str, str]) -> str:
    """The URL of one of the three databases; it may hold a password."""
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
    """A connection to one of the three databases as any other program has it: with no settings of ours.

    Raises
    ------
    psycopg2.OperationalError, EmbeddedServerError
        The server refuses, or the embedded one cannot be trusted.
    """
    if _is_embedded(settings, database):
        return EmbeddedServer(settings.home).connect(database[2], application_name=application_name)
    url = database_url(settings, database).replace(DRIVER, "postgresql://", 1)
    return psycopg2.connect(url, application_name=application_name)


def _is_embedded(settings: Settings, database: tuple[str, str, str]) -> bool:
    """Whether a database is on the embedded server, whose own URLs `doceval env` exports."""
    _, attribute, name = database
    given: str | None = getattr(settings, attribute)
    return given is None or EmbeddedServer(settings.home).is_own_url(given, name)


def plain_url(url: str, embedded: EmbeddedServer) -> str:
    """A database's URL as psql and other programs read it: without a driver, everything percent-encoded.

    SQLAlchemy takes URLs that libpq does not, such as one whose password holds a slash. That of the embedded
    server names its port: libpq takes a missing one from PGPORT.
    """
    parts = make_url(url)
    if parts.port is None and embedded.is_reached_by(parts.query.get("host")):
        parts = parts.update_query_dict({"port": CONNECTION["port"]})
    query = {key: (value,) if isinstance(value, str) else value for key, value in parts.query.items()}
    if len(hosts := query.get("host", ())) > 1:
        # SQLAlchemy has a parameter for each of several servers, libpq a list of hosts and one of ports.
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
    """Turn errors of the driver into one line, without the rows and parameters that they quote."""
    try:
        yield
    except DBAPIError as error:
        raise DatabaseError(_describe(error.orig)) from None
    except psycopg2.Error as error:
        raise DatabaseError(_describe(error)) from None
    except SQLAlchemyError as error:
        raise DatabaseError(f"the database could not be asked: {_reason(error)}") from None


def describe_database(engine: Engine) -> str:
    """A database's name and server, without a password."""
    url = engine.url
    server = url.query.get("host") if url.host is None else f"{url.host}:{url.port or 5432}"
    return f"{url.database or 'the default database'} on {server or 'this machine'}"


def _describe(error: BaseException | None) -> str:
    reason, state = _reason(error), getattr(error, "pgcode", None)
    if state in NO_ROOM:
        return f"the database server has no room ({reason}): make room on its disk, and ask again"
    if state == LOCK_NOT_AVAILABLE:
        return f"waited for a lock in vain: {holder_note(error)}"
    if state in CONNECTION_LOST and isinstance(error, CONNECTION_ERRORS):
        return f"the connection to the database was lost ({reason}): ask again when the server answers"
    return f"the database refused: {reason}"


def _reason(error: BaseException | None) -> str:
    # The primary message names tables and constraints; DETAIL would quote the refused row.
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
    return Databases(
        settings,
        _engine_with_schema(database_url(settings, DOC_EVAL), DOC_EVAL[0], Schema.DOC_EVAL),
        _engine_with_schema(database_url(settings, KNOWLEDGE), KNOWLEDGE[0], Schema.KNOWLEDGE),
    )


def _answer(databases: Databases) -> bool:
    try:
        for engine in (databases.doc_eval, databases.knowledge):
            engine.connect().close()
    except DBAPIError:
        return False
    return True


@lru_cache(maxsize=16)
def _engine_with_schema(url: str, variable: str, schema: Schema) -> Engine:
    engine = _reachable_engine(url, variable)
    with database_errors():
        upgrade(engine, schema)
    return engine


def _fix_formats(connection: Any, _record: object) -> None:
    """Make a new connection independent of the formats and limits that its server or role defaults to.

    psycopg2 cannot read years that Python does not have, which a row may hold.
    """
    connection.autocommit = True
    with connection.cursor() as cursor:
        limits = session_limits(connection.server_version)
        cursor.execute(f"{exact_formats(transaction_only=False)}; {limits}")
    connection.autocommit = False
    register_type(new_type(PYDATETIMETZ.values, "TIMESTAMPTZ", _read_time), connection)


def _read_time(value: str | bytes | None, cursor: Any) -> datetime | None:
    """Read a timestamptz; a time outside Python's years becomes the nearest one that Python has."""
    try:
        moment: datetime | None = PYDATETIMETZ(value, cursor)
    except ValueError:
        return _EARLIEST if str(value).endswith("BC") else _LATEST
    return None if moment is None else min(max(moment, _EARLIEST), _LATEST)


def _reachable_engine(url: str, variable: str) -> Engine:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The error of make_url may quote the URL, and with it a password.
        raise ConfigurationError(f"{variable} is not a URL that can be read: {PERCENT_ENCODED}") from None
    if "@" in f"{parsed.host}{parsed.database}":
        # The end of a password, which would be shown as the name of a server or a database.
        raise ConfigurationError(f"{variable}: its password holds an @: {PERCENT_ENCODED}")
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
        raise DatabaseError(
            f"{variable}: cannot connect to {describe_database(engine)} "
            f"({_reason(error)}): "
            "check that the server runs and that the variable is right"
        ) from None
    return engine


def _connect(engine: Engine, **more: Any) -> Any:
    """A connection of the driver, besides those that the engine keeps."""
    arguments, named = engine.dialect.create_connect_args(engine.url)
    parameters = {**named, **CONNECT_ARGUMENTS, **more}
    return connect_to_guarded(parameters) or psycopg2.connect(*arguments, **parameters)
