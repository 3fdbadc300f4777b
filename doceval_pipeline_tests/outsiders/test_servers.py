"""Servers that would fail later are refused before anything is stored: poolers, encodings, replicas."""

import socket
from collections.abc import Iterator
from dataclasses import replace

import psycopg2
import pytest
from click.testing import CliRunner

from doceval_pipeline.batches import databases
from doceval_pipeline.batches.databases import open_databases, require_dagster_database
from doceval_pipeline.batches.locks import batch_lock, batches_at_work
from doceval_pipeline.cli import cli
from doceval_pipeline.cli.waiting import DatabaseServer
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.errors import DatabaseError
from doceval_pipeline.settings import Settings
from doceval_pipeline_tests.cli.running import until
from doceval_pipeline_tests.conftest import evaluation_of
from doceval_pipeline_tests.outsiders.debian_server import DebianServer, replica
from doceval_pipeline_tests.outsiders.pgbouncer import pgbouncer

pytestmark = pytest.mark.outsiders
DATABASES = {
    "doc_eval_url": "pooled_doc_eval",
    "knowledge_documents_url": "pooled_knowledge",
    "dagster_url": "pooled_dagster",
}
TABLES = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"


@pytest.fixture
def empty(debian_server: DebianServer) -> Iterator[DebianServer]:
    """Debian's server with three empty databases, which this process has not seen before."""
    for remembered in (databases._open, databases._engine_with_schema):
        remembered.cache_clear()
    for name in DATABASES.values():
        debian_server.make_database(name)
    yield debian_server
    for name in DATABASES.values():
        debian_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def on(server: DebianServer, settings: Settings) -> Settings:
    """The three databases, reached through `server`."""
    return replace(settings, **{attribute: server.url(name) for attribute, name in DATABASES.items()})


def refusal(settings: Settings) -> str:
    """The one line with which the first database is refused."""
    with pytest.raises(DatabaseError) as refused:
        open_databases(settings)
    (line,) = str(refused.value).splitlines()
    return line


@pytest.mark.parametrize("round_robin", ["0", "1"])
@pytest.mark.parametrize("pool_size", ["1", "5"])
def test_a_pooler_in_transaction_mode_is_refused(
    empty: DebianServer, settings: Settings, pool_size: str, round_robin: str
) -> None:
    options = {"default_pool_size": pool_size, "server_round_robin": round_robin}
    with pgbouncer(empty, "transaction", **options) as pooled:
        assert refusal(on(pooled, settings)) == (
            f"DOC_EVAL_URL: database pooled_doc_eval on 127.0.0.1:{pooled.port} is behind a connection "
            "pooler in transaction mode, which would give the pipeline's locks to other clients: "
            "use pool_mode = session, or a URL that connects to PostgreSQL directly"
        )
        with pytest.raises(DatabaseError, match=r"DAGSTER_POSTGRES_URL: .* in transaction mode"):
            require_dagster_database(on(pooled, settings))
    assert empty.execute(TABLES, DATABASES["doc_eval_url"]) == [(0,)]


def test_a_pooler_in_statement_mode_is_refused(empty: DebianServer, settings: Settings) -> None:
    with pgbouncer(empty, "statement") as pooled:
        line = refusal(on(pooled, settings))
    assert "is behind a connection pooler that refuses a transaction (" in line
    assert "transaction blocks not allowed" in line
    assert empty.execute(TABLES, DATABASES["doc_eval_url"]) == [(0,)]


def test_a_pooler_in_session_mode_works(empty: DebianServer, settings: Settings) -> None:
    with pgbouncer(empty, "session") as pooled:
        opened = open_databases(on(pooled, settings))
        require_dagster_database(on(pooled, settings))
        applied = apply_evaluation(opened.doc_eval, evaluation_of([{"name": "b", "folders": ["/tmp"]}]))
        with batch_lock(opened, applied.numbers["b"]), opened.doc_eval.connect() as other:
            assert batches_at_work(other) == {applied.numbers["b"]}
        with opened.doc_eval.connect() as other:
            assert batches_at_work(other) == set()
        opened.doc_eval.dispose()
        opened.knowledge.dispose()


def test_a_pooler_that_has_no_second_session_is_refused_in_time(
    empty: DebianServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("doceval_pipeline.batches.server_requirements.SECONDS_TO_ANSWER", 1.0)
    with pgbouncer(empty, "session", default_pool_size="1") as pooled:
        assert refusal(on(pooled, settings)).endswith(
            "gave no second session within 1 s: raise its pool size (20 sessions or more)"
        )


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
@pytest.mark.parametrize("attribute", DATABASES)
def test_a_database_that_is_not_in_utf_8_is_refused(
    empty: DebianServer, settings: Settings, attribute: str, encoding: str
) -> None:
    name = f"in_{encoding.lower()}"
    empty.make_database(name, encoding=encoding)
    try:
        other = replace(on(empty, settings), **{attribute: empty.url(name)})
        open_it = require_dagster_database if attribute == "dagster_url" else open_databases
        with pytest.raises(DatabaseError) as refused:
            open_it(other)
        assert str(refused.value).endswith(
            f"database {name} on 127.0.0.1:{empty.port} is encoded in {encoding}: "
            "create a database with ENCODING 'UTF8'"
        )
        assert empty.execute(TABLES, name) == [(0,)]
    finally:
        empty.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_read_only_database_is_refused_and_a_reader_that_chose_so_is_not(
    empty: DebianServer, settings: Settings
) -> None:
    name = DATABASES["doc_eval_url"]
    empty.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    assert "is read-only (default_transaction_read_only is on)" in refusal(on(empty, settings))
    empty.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    open_databases(on(empty, settings))
    empty.make_login("reads_only")
    empty.execute("ALTER ROLE reads_only SET default_transaction_read_only = on")
    empty.execute("GRANT SELECT ON doceval_doc_eval_version TO reads_only", name)
    empty.execute(
        "GRANT SELECT ON doceval_knowledge_version TO reads_only", DATABASES["knowledge_documents_url"]
    )
    as_reader = {a: empty.url(n, "reads_only") for a, n in DATABASES.items()}
    try:
        open_databases(replace(settings, **as_reader)).doc_eval.dispose()
    finally:
        for database in DATABASES.values():
            empty.execute("DROP OWNED BY reads_only", database)
        empty.execute("DROP ROLE reads_only")


def test_a_replica_is_refused(empty: DebianServer, settings: Settings) -> None:
    with replica(empty) as standby:
        assert refusal(on(standby, settings)).endswith(
            f"pooled_doc_eval on 127.0.0.1:{standby.port} is on a replica, which is read-only: "
            "use the primary server"
        )


def test_init_refuses_dagsters_database_before_it_writes_into_another(
    empty: DebianServer, settings: Settings
) -> None:
    variables = {
        "DOC_EVAL_URL": empty.url(DATABASES["doc_eval_url"]),
        "KNOWLEDGE_DOCUMENTS_URL": empty.url(DATABASES["knowledge_documents_url"]),
    }
    with pgbouncer(empty, "transaction") as pooled:
        variables["DAGSTER_POSTGRES_URL"] = pooled.url(DATABASES["dagster_url"])
        ended = CliRunner().invoke(cli, ["init"], env=variables)
    assert isinstance(ended.exception, DatabaseError)
    assert str(ended.exception).startswith("DAGSTER_POSTGRES_URL: database pooled_dagster on ")
    assert [empty.execute(TABLES, name) for name in DATABASES.values()] == [[(0,)]] * 3


def test_a_server_is_asked_whether_it_answers_without_a_word_in_its_log(debian_server: DebianServer) -> None:
    debian_server.accept_tls()
    place = ("127.0.0.1", debian_server.port)
    with socket.create_connection(place) as asked:
        asked.sendall((8).to_bytes(4) + (80877103).to_bytes(4))
        assert asked.recv(1) == b"S", "it has no TLS"
    until(lambda: "could not accept SSL connection" in debian_server.log.read_text())
    before = debian_server.log.read_text()
    for _ in range(5):
        assert DatabaseServer("a server", place).answers(10)
    # What it writes of one that comes after them is the last.
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(host=place[0], port=place[1], user="nobody", password="x", dbname="postgres")
    until(lambda: 'user "nobody"' in debian_server.log.read_text())
    assert "connection" not in debian_server.log.read_text().removeprefix(before).split('user "nobody"')[0]
